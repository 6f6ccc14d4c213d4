"""How far new items are raised: as far as they cost the known ones little, and to no more than their share.

A fit by likelihood hides new items, since most users want a known one. So the constant that is added to new items is
chosen apart, for each kind of request, on validation users and with a tenth of the items counted as new. It is the
largest with which new items have no larger a share of the lists than of the catalogue, and NDCG@10 of the known items
falls by no more than `BUDGET`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Self

import numpy as np
from numpy.typing import NDArray

from swiftrec.export.blend.fit import Choices
from swiftrec.server.catalogue.blend import SIGNALS, Weights

BUDGET = 0.01  # of NDCG@10 where a known item is wanted
_TOP = 10
_HALVINGS = 20
_NEWCOMER = SIGNALS.index("newcomer")


def raise_newcomers(choices: Sequence[Choices], weights: Weights) -> Weights:
    """The weights with new items raised to the end of their budget or their share.

    The same weights where no request wants a new item, or no known one is found.
    """
    lists = _Lists.of(choices, weights)
    is_new = lists.wants_new
    if not is_new.any() or is_new.all():
        return weights
    low, high = -lists.reach, lists.reach
    least = (1 - BUDGET) * lists.ndcg(low)[~is_new].mean()
    if not least:
        return weights
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        is_bearable = lists.ndcg(middle)[~is_new].mean() >= least and lists.shown(middle) <= lists.share
        low, high = (middle, high) if is_bearable else (low, middle)
    return replace(weights, newcomer=low)


@dataclass(frozen=True, slots=True)
class _Lists:
    """Scores of all requests, one after the other, without what is added to new items."""

    scores: NDArray[np.float32]
    is_new: NDArray[np.bool_]
    counts: NDArray[np.float32]
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, choices: Sequence[Choices], weights: Weights) -> Self:
        signals = np.concatenate([one.signals for one in choices])
        sizes = np.array([len(one.offsets) for one in choices])
        plain = replace(weights, newcomer=0.0)
        values = np.array([getattr(plain, name) for name in SIGNALS], dtype=np.float32)
        counts = np.exp(np.concatenate([one.offsets for one in choices]))
        return cls(signals @ values, signals[:, _NEWCOMER] > 0, counts, np.cumsum(sizes) - sizes)

    @property
    def wants_new(self) -> NDArray[np.bool_]:
        """Whether each request wants an item that counts as new."""
        return self.is_new[self.starts]

    @property
    def reach(self) -> float:
        """What must be added to a new item that stands last for it to stand first."""
        return float(np.ptp(self.scores)) + 1.0

    @property
    def share(self) -> float:
        """Share of what may be recommended that counts as new."""
        return float(self.counts @ self.is_new / self.counts.sum())

    def shown(self, raised: float) -> float:
        """Share of the lists of ten that is new with `raised` added to new items."""
        scores = self.scores + np.float32(raised) * self.is_new
        shares = []
        for start, end in pairwise([*self.starts.tolist(), len(scores)]):
            order = start + np.argsort(-scores[start:end], kind="stable")
            counts = self.counts[order]
            top = np.cumsum(counts) - counts < _TOP
            shares.append(float(counts[top] @ self.is_new[order[top]] / counts[top].sum()))
        return float(np.mean(shares))

    def ndcg(self, raised: float) -> NDArray[np.float64]:
        """NDCG@10 of each request with `raised` added to new items."""
        scores = self.scores + np.float32(raised) * self.is_new
        sizes = np.diff(np.append(self.starts, len(scores)))
        before = (scores > np.repeat(scores[self.starts], sizes)) * self.counts
        ranks = np.add.reduceat(before, self.starts)
        return np.where(ranks < _TOP, 1 / np.log2(ranks + 2.0), 0.0)
