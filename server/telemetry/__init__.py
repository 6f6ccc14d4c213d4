"""Metrics, traces, logs, and the HTTP port that exposes them."""
