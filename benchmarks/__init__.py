"""Latency and throughput, honestly measured: comes with the benchmark issue."""
