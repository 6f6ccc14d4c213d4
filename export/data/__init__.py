"""Data sets: items, interactions, training texts and splits."""
