"""Mutated requests: over the wire to a server, and in process through decode and validate."""
