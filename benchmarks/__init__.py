"""Latency and throughput tools; `python -m benchmarks --help` lists them."""
