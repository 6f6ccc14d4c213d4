"""`swiftrec bench catalogue`: recall, speed and memory of the catalogue by its size."""
