"""Ratings of what was taken: how much each event is wanted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LEAST = 0.2  # what the lowest rating is worth: one star of five; what was not taken is worth 0

Worth = list[NDArray[np.float32]]


def worth_of(ratings: list[NDArray[np.float64]]) -> Worth:
    """How much each rated event is wanted: LEAST for the lowest of all ratings, 1 for the highest, a line between.

    Ratings that are all the same tell nothing apart: 1. So is an event without a rating (NaN): it was taken.
    """
    if not ratings:
        return []
    flat = np.concatenate(ratings)
    low, high = (
        np.min(flat, initial=np.inf, where=~np.isnan(flat)),
        np.max(flat, initial=-np.inf, where=~np.isnan(flat)),
    )
    scaled = np.interp(flat, [low, high], [LEAST, 1.0]) if low < high else np.ones_like(flat)
    scaled[np.isnan(flat)] = 1.0
    return np.split(scaled.astype(np.float32), np.cumsum([len(row) for row in ratings])[:-1])
