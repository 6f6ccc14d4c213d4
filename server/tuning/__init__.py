"""Measures the best settings for a bundle on this machine, and stores them next to the bundle for later starts."""
