"""A made-up data set with planted structure: `python -m export planted`."""
