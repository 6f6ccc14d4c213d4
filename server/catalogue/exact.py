"""Exact search: every allowed item is compared.

Scores are dot products row by row. A product of matrix and vector would be faster for a few thousand items, but its
result depends, in the last bits, on where a row stands, and its threads wait spinning for each other when the models
hold the cores. This way equal vectors have equal scores wherever they stand, and every search gives an item the same.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from server.catalogue.filters import Allowed, Positions

Vector = NDArray[np.float32]
Vectors = NDArray[np.float32]

_CHUNK = 16_384  # rows that are copied at once
_DENSE = 4  # reading all rows in order is as fast as picking one of four


def search(vectors: Vectors, user: Vector, allowed: Allowed, k: int) -> tuple[Positions, Vector]:
    """The best `k` of all allowed items and their scores; ties go to the earlier item."""
    if allowed.bits is None:
        scores = _scores(vectors, user)
        scores[allowed.denied] = -np.inf
        return _best(None, scores, min(k, allowed.count))
    positions = allowed.positions()
    if allowed.count * _DENSE > len(vectors):
        return _best(positions, _scores(vectors, user)[positions], k)
    return rank(vectors, user, positions, k)


def rank(vectors: Vectors, user: Vector, positions: Positions, k: int) -> tuple[Positions, Vector]:
    """The best `k` of `positions`, ascending, and their scores; ties go to the earlier item."""
    scores = np.empty(len(positions), dtype=np.float32)
    for start in range(0, len(positions), _CHUNK):
        part = slice(start, start + _CHUNK)
        scores[part] = _scores(vectors[positions[part]], user)
    return _best(positions, scores, k)


def _scores(rows: Vectors, user: Vector) -> Vector:
    scores: Vector = np.vecdot(rows, user)
    return scores


def _best(positions: Positions | None, scores: Vector, k: int) -> tuple[Positions, Vector]:
    """The best `k`; without positions those of the scores."""
    if not k:
        return np.empty(0, dtype=np.int64), scores[:0]
    is_more = len(scores) > k
    near = np.flatnonzero(scores >= np.partition(scores, -k)[-k]) if is_more else np.arange(len(scores))
    best = near[np.argsort(-scores[near], kind="stable")[:k]]
    return best if positions is None else positions[best], scores[best]
