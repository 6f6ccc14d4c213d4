"""A made-up data set with planted structure: `swiftrec export planted`."""
