"""Recommenders of other libraries on a bundle's own split: `python -m benchmarks quality`."""
