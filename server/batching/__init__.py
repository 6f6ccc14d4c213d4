"""Which jobs run together, and when."""
