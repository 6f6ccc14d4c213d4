"""Exact search: every allowed item is compared.

A dot product by BLAS depends, in its last bits, on where a row stands. So BLAS only picks the candidates; what is
answered is scored row by row, in the same way by every search, and equal vectors have equal scores wherever they stand.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from server.catalogue.filters import Allowed, Positions

Vector = NDArray[np.float32]
Vectors = NDArray[np.float32]

_CHUNK = 65_536  # rows that are copied at once
_SLACK = 1e-5  # of the largest score that the lengths allow: far beyond what the order of summation changes


def rank(vectors: Vectors, user: Vector, positions: Positions, k: int) -> tuple[Positions, Vector]:
    """The best `k` of `positions` and their scores; ties go to the earlier item."""
    scores = np.concatenate(
        [np.einsum("nd,d->n", vectors[positions[n : n + _CHUNK]], user) for n in range(0, len(positions), _CHUNK)]
        or [np.empty(0, dtype=np.float32)]
    )
    best = np.lexsort((positions, -scores))[:k]
    return positions[best], scores[best]


def search(vectors: Vectors, longest: float, user: Vector, allowed: Allowed, k: int) -> tuple[Positions, Vector]:
    """The best `k` of all allowed items and their scores; `longest` is the greatest length of a vector."""
    if allowed.count > len(vectors) // 4:
        scores = vectors @ user
        positions = None if allowed.count == len(vectors) else allowed.positions()
        scores = scores if positions is None else scores[positions]
    else:
        positions = allowed.positions()
        scores = np.concatenate(
            [vectors[positions[n : n + _CHUNK]] @ user for n in range(0, len(positions), _CHUNK)]
            or [np.empty(0, dtype=np.float32)]
        )
    if len(scores) > k:
        least = np.partition(scores, len(scores) - k)[len(scores) - k]
        near = np.flatnonzero(scores >= least - _SLACK * longest * float(np.linalg.norm(user)))
        positions = near if positions is None else positions[near]
    elif positions is None:
        positions = np.arange(len(vectors))
    return rank(vectors, user, positions, k)
