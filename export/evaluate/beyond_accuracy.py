"""What a recommender shows as a whole: how much of the catalogue, how evenly, how varied, how well known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from swiftrec.export.schema.record import Exposure
from swiftrec.server.arrays import Positions, Vectors

_TENTHS = 10


def exposure(lists: Sequence[NDArray[np.int64]], counts: NDArray[np.int64], vectors: Vectors) -> Exposure:
    """Measure some lists of items.

    Args:
        lists: item positions, at most ten of each case.
        counts: events of each item that training knows, [items].
        vectors: unit vectors of the items, [items, width].
    """
    flat = np.concatenate([*lists, np.empty(0, np.int64)])
    shown = np.bincount(flat, minlength=len(counts))
    surprise = -np.log2((counts + 1) / (counts.sum() + len(counts)))
    varied = [_diversity(vectors[row]) for row in lists if len(row) > 1]
    return Exposure(
        coverage=float((shown > 0).mean()),
        gini=gini(shown),
        diversity=float(np.mean(varied)) if varied else 0.0,
        novelty=float(surprise[flat].mean()) if len(flat) else 0.0,
        by_popularity=by_popularity(flat, counts),
    )


def gini(shown: NDArray[np.int64]) -> float:
    """Gini coefficient of how often each item is shown; 0 if none is."""
    ordered, n = np.sort(shown), len(shown)
    return float((2 * np.arange(1, n + 1) - n - 1) @ ordered / (n * max(1, ordered.sum())))


def by_popularity(items: Positions, counts: NDArray[np.int64]) -> list[float]:
    """Share of `items` in each tenth of the catalogue, the most popular tenth first."""
    order = np.argsort(-counts, kind="stable")
    tenth = np.empty(len(counts), dtype=np.int64)
    tenth[order] = np.arange(len(counts)) * _TENTHS // len(counts)
    shares: list[float] = (np.bincount(tenth[items], minlength=_TENTHS) / max(1, len(items))).tolist()
    return shares


def _diversity(rows: Vectors) -> float:
    """1 - mean cosine of every two of the unit vectors `rows` [2 or more, width]."""
    size, summed = len(rows), rows.sum(0)
    return float(1 - (summed @ summed - (rows * rows).sum()) / (size * (size - 1)))
