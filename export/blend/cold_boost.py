"""The boost of items without interactions (cold items), for each kind of request.

A fit by likelihood hides cold items, since the targets of most users are warm. So the constant that is added to their
scores is chosen separately, on validation users and with a tenth of the items treated as cold. It is the largest one
with which cold items have no larger share of the lists than of the catalogue, and NDCG@10 of warm targets falls by no
more than `MAX_LOSS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Self

import numpy as np
from numpy.typing import NDArray

from swiftrec.export.blend.fit import Choices
from swiftrec.server.arrays import Mask
from swiftrec.server.catalogue.blend import SIGNALS, Weights

MAX_LOSS = 0.01  # of NDCG@10 of warm targets
_TOP = 10
_BISECTIONS = 20
_BOOST = SIGNALS.index("newcomer")


def boost_cold_items(choices: Sequence[Choices], weights: Weights) -> Weights:
    """The weights with the largest boost within both limits.

    They are unchanged if no target is cold, or if no warm target is among the ten best.
    """
    lists = _Lists.of(choices, weights)
    is_cold = lists.has_cold_target
    if not is_cold.any() or is_cold.all():
        return weights
    low, high = -lists.max_boost, lists.max_boost
    min_ndcg = (1 - MAX_LOSS) * lists.ndcg(low)[~is_cold].mean()
    if not min_ndcg:
        return weights
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        is_allowed = lists.ndcg(middle)[~is_cold].mean() >= min_ndcg and lists.shown(middle) <= lists.share
        low, high = (middle, high) if is_allowed else (low, middle)
    return replace(weights, newcomer=low)


@dataclass(frozen=True, slots=True)
class _Lists:
    """Scores of all requests, one after the other, without the boost."""

    scores: NDArray[np.float32]
    is_cold: Mask
    counts: NDArray[np.float32]
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, choices: Sequence[Choices], weights: Weights) -> Self:
        signals = np.concatenate([each.signals for each in choices])
        sizes = np.array([len(each.offsets) for each in choices])
        plain = replace(weights, newcomer=0.0)
        values = np.array([getattr(plain, name) for name in SIGNALS], dtype=np.float32)
        counts = np.exp(np.concatenate([each.offsets for each in choices]))
        return cls(signals @ values, signals[:, _BOOST] > 0, counts, np.cumsum(sizes) - sizes)

    @property
    def has_cold_target(self) -> Mask:
        """Whether the target of each request is cold."""
        return self.is_cold[self.starts]

    @property
    def max_boost(self) -> float:
        """The boost that brings a cold item from the last rank to the first."""
        return float(np.ptp(self.scores)) + 1.0

    @property
    def share(self) -> float:
        """Share of cold items among those that may be recommended."""
        return float(self.counts @ self.is_cold / self.counts.sum())

    def shown(self, boost: float) -> float:
        """Share of cold items in the lists of ten with this boost."""
        scores = self.scores + np.float32(boost) * self.is_cold
        shares = []
        for start, end in pairwise([*self.starts.tolist(), len(scores)]):
            order = start + np.argsort(-scores[start:end], kind="stable")
            counts = self.counts[order]
            top = np.cumsum(counts) - counts < _TOP
            shares.append(float(counts[top] @ self.is_cold[order[top]] / counts[top].sum()))
        return float(np.mean(shares))

    def ndcg(self, boost: float) -> NDArray[np.float64]:
        """NDCG@10 of each request with this boost."""
        scores = self.scores + np.float32(boost) * self.is_cold
        sizes = np.diff(np.append(self.starts, len(scores)))
        before = (scores > np.repeat(scores[self.starts], sizes)) * self.counts
        ranks = np.add.reduceat(before, self.starts)
        return np.where(ranks < _TOP, 1 / np.log2(ranks + 2.0), 0.0)
