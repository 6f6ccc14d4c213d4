"""Latency and throughput tools; `swiftrec bench --help` lists them."""
