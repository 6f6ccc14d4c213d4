"""The catalogue: items, filters, exact and approximate search, and the parts of a score."""
