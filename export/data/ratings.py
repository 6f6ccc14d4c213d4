"""Ratings of what was taken: whether a table has any, and how much each rated event is wanted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from export.data.cells import is_missing
from export.data.layout import RATING
from export.data.mistakes import Mistakes
from export.data.rows import Table

LEAST = 0.2  # what the lowest rating is worth: one star of five; what was not taken is worth 0

Worth = list[NDArray[np.float32]]


def has_ratings(table: Table) -> bool:
    """Whether any row has a rating; a column without a single one is as good as none.

    JSONL that has none is read to its end for this, a second time; else the first row says it as a rule.
    """
    for _, row in replace(table, mistakes=Mistakes()).rows():
        if not is_missing(row.get(RATING)):
            return True
        if RATING not in row and table.format != "jsonl":
            return False
    return False


def worth_of(ratings: list[NDArray[np.float64]]) -> Worth:
    """How much each rated event is wanted: LEAST for the lowest of all ratings, 1 for the highest, a line between.

    Ratings that are all the same tell nothing apart: 1.
    """
    if not ratings:
        return []
    flat = np.concatenate(ratings)
    low, high = flat.min(), flat.max()
    scaled = np.interp(flat, [low, high], [LEAST, 1.0]) if low < high else np.ones_like(flat)
    return np.split(scaled.astype(np.float32), np.cumsum([len(row) for row in ratings])[:-1])
