"""How far new items are raised: as far as they cost the known ones little.

Likelihood alone hides what nobody took yet, since most of what is wanted is known. So two numbers are chosen on
validation, where a tenth of the items count as new. One says how much more the ranker's word counts for new items, of
which nothing else speaks: the one with the largest product of what is found of new and of known items, if new items
have in the lists the share that they have in the catalogue. The other is what is added to them, for each kind of
request: they may take so much of the places that what is found of the known items falls by `BUDGET`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Self

import numpy as np
from numpy.typing import NDArray

from export.blend.fit import Choices
from server.catalogue.blend import SIGNALS, Weights

BUDGET = 0.01  # of NDCG@10 where a known item is wanted
SCALES = (1.0, 2.0, 4.0)
_TOP = 10
_REACH, _HALVINGS = 20.0, 14
_RANKER, _NEWCOMER = SIGNALS.index("ranker"), SIGNALS.index("newcomer")


def scaled(choices: Sequence[Choices], scale: float) -> list[Choices]:
    """The same with the ranker's scores of new items multiplied."""
    return [replace(one, signals=_scaled(one.signals, scale)) for one in choices]


def scale_newcomers(vectors: NDArray[np.float32], popularity: NDArray[np.int64], scale: float) -> NDArray[np.float32]:
    """The ranker's item vectors [items, d] as a search compares them: those of new items multiplied.

    Args:
        vectors: one for each item.
        popularity: number of events of each item, 0 for the new ones (`export.data.popularity`), [items].
        scale: the factor.
    """
    factors: NDArray[np.float32] = np.where(popularity == 0, scale, 1.0).astype(np.float32)
    return vectors * factors[:, None]


def found_of_both(choices: Sequence[Choices], weights: Weights) -> float:
    """NDCG@10 where a new item is wanted times that where a known one is, if lists have new items by their number."""
    lists = _Lists.of(choices, weights)
    is_new = lists.wants_new
    if not is_new.any() or is_new.all():
        return 0.0
    low, high = -_REACH, _REACH
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if lists.shown(middle) <= lists.is_new.mean() else (low, middle)
    found = lists.ndcg(low)
    return float(found[is_new].mean() * found[~is_new].mean())


def raise_newcomers(choices: Sequence[Choices], weights: Weights) -> Weights:
    """The weights with new items raised to the end of their budget.

    The same weights where no request wants a new item, or no known one is found.
    """
    lists = _Lists.of(choices, weights)
    is_new = lists.wants_new
    if not is_new.any() or is_new.all():
        return weights
    least = (1 - BUDGET) * lists.ndcg(-_REACH)[~is_new].mean()
    if not least:
        return weights
    low, high = -_REACH, _REACH
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if lists.ndcg(middle)[~is_new].mean() >= least else (low, middle)
    return replace(weights, newcomer=low)


def _scaled(signals: NDArray[np.float32], scale: float) -> NDArray[np.float32]:
    found = signals.copy()
    found[:, _RANKER] *= np.where(signals[:, _NEWCOMER] > 0, np.float32(scale), np.float32(1))
    return found


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
