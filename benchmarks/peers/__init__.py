"""Other servers on the same job, side by side with this one: `python -m benchmarks.peers`."""
