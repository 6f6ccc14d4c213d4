"""Texts of similar length together, so that a batch is hardly padded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_POOL = 8  # batches that are sorted together

Lengths = Sequence[int] | NDArray[np.int64]


def by_length(lengths: Lengths, size: int) -> list[list[int]]:
    """Positions of all texts in batches of `size`, the shortest first; `lengths` are in tokens."""
    order = np.argsort(np.asarray(lengths), kind="stable").tolist()
    return [order[start : start + size] for start in range(0, len(order), size)]


def shuffled(texts: NDArray[np.int64], lengths: Lengths, size: int, rng: np.random.Generator) -> list[list[int]]:
    """The positions `texts`, which are in random order, in batches of `size`, these in random order, too."""
    batches: list[list[int]] = []
    for start in range(0, len(texts), size * _POOL):
        pool = sorted(texts[start : start + size * _POOL].tolist(), key=lambda n: int(lengths[n]))
        batches += [pool[n : n + size] for n in range(0, len(pool), size)]
    return [batches[n] for n in rng.permutation(len(batches))]
