"""Evaluation of recommenders: tasks, baselines, metrics and comparisons."""
