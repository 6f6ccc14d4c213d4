"""Figures of one wanted item among the whole catalogue, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from swiftrec.export.data.split import Cases
from swiftrec.export.errors import ExportError

Scores = NDArray[np.float32]
Values = NDArray[np.float64]
Score = Callable[[slice], Scores]

TOP = 10
NO_ITEM = -1  # fills up a list of fewer than ten items
_NO_RANK = 1 << 62  # of an item that no list can show
_RESAMPLES = 1_000
_CELLS = 1 << 23  # scores held at a time, 32 MB


@dataclass(frozen=True, slots=True)
class Figure:
    """A mean over users or queries and its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.4f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True, slots=True)
class Ranked:
    """Answers to some cases: `ranks` of the wanted items (int64 [cases], 0 is best) and `top` (int64 [cases, 10]).

    Where fewer than ten items are left to recommend, a row of `top` ends in `NO_ITEM`; see `lists`.
    """

    ranks: NDArray[np.int64]
    top: NDArray[np.int64]

    @property
    def lists(self) -> list[NDArray[np.int64]]:
        """The items that each case is shown, best first: ten, or all that are left."""
        return [row[row != NO_ITEM] for row in self.top]

    @property
    def ndcg(self) -> Values:
        """NDCG@10 of each case."""
        return np.where(self.ranks < TOP, 1 / np.log2(self.ranks + 2.0), 0.0)

    @property
    def recall(self) -> Values:
        """1 where the wanted item is among the first ten."""
        return (self.ranks < TOP).astype(np.float64)

    @property
    def first(self) -> Values:
        """1 where the wanted item is the first one."""
        return (self.ranks < 1).astype(np.float64)

    def violating(self, excluded: Sequence[NDArray[np.int64]]) -> Values:
        """Share of each case's list that the request excludes; 0 for a list without items."""
        pairs = zip(self.lists, excluded, strict=True)
        shares = [float(np.isin(row, out).mean()) if len(row) else 0.0 for row, out in pairs]
        return np.array(shares, dtype=np.float64)

    @property
    def reciprocal(self) -> Values:
        """1 / rank of each case; its mean is the MRR."""
        return 1 / (self.ranks + 1.0)


def figure(values: Sequence[float] | Values, seed: int) -> Figure:
    """Mean with its percentile bootstrap interval (Efron, 1979; 1,000 resamples)."""
    array = np.asarray(values, dtype=np.float64)
    means = array[_resamples(len(array), seed)].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Figure(float(array.mean()), float(low), float(high))


def share(part: Values, whole: Values, seed: int) -> Figure | None:
    """Mean of `part` over mean of `whole`, with an interval over the same cases drawn for both.

    None if `whole` is 0 everywhere: nothing is a share of that.
    """
    if not whole.any():
        return None
    drawn = _resamples(len(part), seed)
    ratios = part[drawn].mean(1) / np.maximum(whole[drawn].mean(1), 1e-12)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return Figure(float(part.mean() / whole.mean()), float(low), float(high))


def overlap(a: Ranked, b: Ranked) -> float:
    """Share of the top ten that two subjects have in common, averaged over cases."""
    return float(np.mean([common(x.tolist(), y.tolist()) for x, y in zip(a.lists, b.lists, strict=True)]))


def common(a: Sequence[object], b: Sequence[object]) -> float:
    """Share of two lists that is in both, of the longer one; 1 if both are empty."""
    longest = max(len(a), len(b))
    return len({*a} & {*b}) / longest if longest else 1.0


def rank(score: Score, cases: Cases, items: int) -> Ranked:
    """Rank each case's wanted item among all items that may be recommended; ties go to the earlier item.

    Of the wanted item and those that count as it (`cases.equivalents`) the best rank is taken.

    What `cases.masked` names may not: it fills no list, and if it is wanted it counts as not found.

    Args:
        score: scores float32 [cases in the slice, items]; asked slice by slice, so that memory stays bounded.
        cases: what is asked.
        items: size of the catalogue.

    Raises:
        ExportError: a score is not a number.
    """
    ranks, tops = [], np.full((len(cases.targets), TOP), NO_ITEM, dtype=np.int64)
    for part, scores in masked_scores(score, cases, items):
        ranks.append(_ranks(scores, _nearest_wanted(scores, cases.targets[part], cases.equivalents[part])))
        for top, row in zip(tops[part], scores, strict=True):
            shown = best(row)
            top[: len(shown)] = shown
    return Ranked(np.concatenate(ranks), tops)


def masked_scores(score: Score, cases: Cases, items: int) -> Iterator[tuple[slice, Scores]]:
    """Slice after slice of the cases with its scores, in which -inf stands for what may not be recommended.

    Raises:
        ExportError: a score is not a number.
    """
    size, hidden = max(1, _CELLS // items), cases.masked
    for start in range(0, len(cases.targets), size):
        part = slice(start, start + size)
        scores = np.array(score(part), dtype=np.float32)  # a copy: masking writes
        if np.isnan(scores).any():
            raise ExportError("a score is NaN, so nothing can be ranked: train with a lower --learning-rate")
        for row, history in zip(scores, hidden[part], strict=True):
            row[history] = -np.inf
        yield part, scores


def _nearest_wanted(scores: Scores, wanted: NDArray[np.int64], same: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Of each case's wanted item and those that count as it the one with the best score, of equal ones the earlier."""
    if not any(map(len, same)):
        return wanted
    options = [np.sort(np.append(others, item)) for item, others in zip(wanted, same, strict=True)]
    return np.array([own[np.argmax(row[own])] for row, own in zip(scores, options, strict=True)])


def _ranks(scores: Scores, wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Ranks of `wanted` [cases] in masked scores [cases, items]."""
    target = scores[np.arange(len(wanted)), wanted][:, None]
    is_earlier = np.arange(scores.shape[1]) < wanted[:, None]
    ranks = (scores > target).sum(1) + ((scores == target) & is_earlier).sum(1)
    return np.where(np.isneginf(target[:, 0]), _NO_RANK, ranks)


def best(scores: Scores) -> NDArray[np.int64]:
    """Positions of the ten best of `scores` [items]; ties go to the earlier item, and -inf, a masked item, is none."""
    if len(scores) > TOP:
        least = np.partition(scores, -TOP)[-TOP]
        candidates = np.flatnonzero(scores >= least)
    else:
        candidates = np.arange(len(scores))
    candidates = candidates[~np.isneginf(scores[candidates])]
    return candidates[np.argsort(-scores[candidates], kind="stable")[:TOP]]


def random_ndcg(items: int) -> float:
    """NDCG@10 that an order by chance has on average, one item being wanted of so many."""
    return float((1 / np.log2(np.arange(min(TOP, items)) + 2.0)).sum() / items)


def ndcg(scores: Scores, masked: NDArray[np.int64], wanted: int) -> float:
    """NDCG@10 of `wanted` in one row of scores [items]; `masked` items are left out, ties go to the earlier item."""
    alone = Cases(np.zeros(1, np.int64), [masked], np.array([wanted]))
    return float(rank(lambda _: scores[None], alone, len(scores)).ndcg[0])


def _resamples(size: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, size, (_RESAMPLES, size))
