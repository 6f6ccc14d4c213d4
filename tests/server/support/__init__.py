"""Helpers shared by the tests of `server/`: bundles, workers, fronts, clients and processes."""
