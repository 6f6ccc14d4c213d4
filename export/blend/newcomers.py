"""How far new items are raised: as far as they cost the known ones little.

Likelihood alone hides what nobody took yet, since most of what is wanted is known. So what is added to new items is
chosen for each kind of request on validation, where a tenth of the items count as new: they may take so much of the
places that what is found of the known items falls by `BUDGET`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from export.blend.fit import Choices
from server.catalogue.blend import SIGNALS, Weights

BUDGET = 0.01  # of NDCG@10 where a known item is wanted
_TOP = 10
_HALVINGS = 20
_NEWCOMER = SIGNALS.index("newcomer")


def raise_newcomers(choices: Sequence[Choices], weights: Weights) -> Weights:
    """The weights with new items raised to the end of their budget.

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
        low, high = (middle, high) if lists.ndcg(middle)[~is_new].mean() >= least else (low, middle)
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

    def ndcg(self, raised: float) -> NDArray[np.float64]:
        """NDCG@10 of each request with `raised` added to new items."""
        scores = self.scores + np.float32(raised) * self.is_new
        sizes = np.diff(np.append(self.starts, len(scores)))
        before = (scores > np.repeat(scores[self.starts], sizes)) * self.counts
        ranks = np.add.reduceat(before, self.starts)
        return np.where(ranks < _TOP, 1 / np.log2(ranks + 2.0), 0.0)
