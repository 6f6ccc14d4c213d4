"""Checkpoints of the supported formats, read and checked."""
