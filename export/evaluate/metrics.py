"""NDCG@10 of one wanted item, and bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TOP = 10
_RESAMPLES = 1_000


@dataclass(frozen=True, slots=True)
class Figure:
    """A mean over users or queries and its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.4f} [{self.low:.3f}, {self.high:.3f}]"


def figure(values: Sequence[float] | NDArray[np.float64], seed: int) -> Figure:
    """Mean with its percentile bootstrap interval (Efron, 1979; 1,000 resamples)."""
    array = np.asarray(values, dtype=np.float64)
    rng = np.random.default_rng(seed)
    means = array[rng.integers(0, len(array), (_RESAMPLES, len(array)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Figure(float(array.mean()), float(low), float(high))


def ndcg(scores: NDArray[np.float32], seen: NDArray[np.int64], wanted: int) -> float:
    """NDCG@10 of `wanted` among all items but those seen; scores [items]; ties go to the earlier item."""
    scores = scores.copy()
    target = scores[wanted]
    scores[seen] = -np.inf
    rank = int((scores > target).sum() + (scores[:wanted] == target).sum())
    return 1 / float(np.log2(rank + 2)) if rank < TOP else 0.0


def top(scores: NDArray[np.float32], seen: NDArray[np.int64]) -> list[int]:
    """Positions of the ten best items but those seen; ties go to the earlier item."""
    scores = scores.copy()
    scores[seen] = -np.inf
    best: list[int] = np.argsort(-scores, kind="stable")[:TOP].tolist()
    return best
