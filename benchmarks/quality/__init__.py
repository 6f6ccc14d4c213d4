"""Recommenders of other libraries on a bundle's own split: `swiftrec bench quality`."""
