"""Swiftrec: an inference server for BERT text recommenders, the export that makes its bundles, and its benchmarks.

The three packages lie in the top-level folders `server`, `export` and `benchmarks`; the links here give them one name.
"""
