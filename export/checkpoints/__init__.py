"""Checkpoints as their makers write them, read or refused by name."""
