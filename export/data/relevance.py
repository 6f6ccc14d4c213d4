"""Relevance of interactions, from their ratings."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MIN_RELEVANCE = 0.2  # of the lowest rating (one star of five); an item without an interaction has 0

Relevance = list[NDArray[np.float32]]


def relevance_of(ratings: list[NDArray[np.float64]]) -> Relevance:
    """The relevance of each interaction, linear in its rating: from `MIN_RELEVANCE` for the lowest of all to 1.

    It is 1 if all ratings are the same, and for an interaction without a rating (NaN).
    """
    if not ratings:
        return []
    flat = np.concatenate(ratings)
    low, high = (
        np.min(flat, initial=np.inf, where=~np.isnan(flat)),
        np.max(flat, initial=-np.inf, where=~np.isnan(flat)),
    )
    scaled = np.interp(flat, [low, high], [MIN_RELEVANCE, 1.0]) if low < high else np.ones_like(flat)
    scaled[np.isnan(flat)] = 1.0
    return np.split(scaled.astype(np.float32), np.cumsum([len(row) for row in ratings])[:-1])
