"""Metrics of one target among the whole catalogue, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from swiftrec.export.data.split import Cases
from swiftrec.export.errors import ExportError
from swiftrec.export.schema.record import MeanInterval
from swiftrec.server.arrays import Floats, Positions, Scores

Score = Callable[[slice], Scores]

TOP = 10
NO_ITEM = -1  # fills up a list of fewer than ten items
_NO_RANK = 1 << 62  # of an item that may not be recommended
_RESAMPLES = 1_000
_CELLS = 1 << 23  # scores held at a time, 32 MB


@dataclass(frozen=True, slots=True)
class RankedCases:
    """Results of some cases: `ranks` of the targets (int64 [cases], 0 is best) and `top` (int64 [cases, 10]).

    If fewer than ten items are left to recommend, a row of `top` ends in `NO_ITEM`; see `lists`.
    """

    ranks: NDArray[np.int64]
    top: NDArray[np.int64]

    @property
    def lists(self) -> list[NDArray[np.int64]]:
        """The recommended items of each case, best first: ten, or all that are left."""
        return [row[row != NO_ITEM] for row in self.top]

    @property
    def ndcg(self) -> Floats:
        """NDCG@10 of each case."""
        return np.where(self.ranks < TOP, 1 / np.log2(self.ranks + 2.0), 0.0)

    @property
    def recall(self) -> Floats:
        """1 if the target is among the first ten."""
        return (self.ranks < TOP).astype(np.float64)

    @property
    def first(self) -> Floats:
        """1 if the target is the first item."""
        return (self.ranks < 1).astype(np.float64)

    def violating(self, excluded: Sequence[NDArray[np.int64]]) -> Floats:
        """Share of each case's list that the request excludes; 0 for a list without items."""
        pairs = zip(self.lists, excluded, strict=True)
        shares = [float(np.isin(row, items).mean()) if len(row) else 0.0 for row, items in pairs]
        return np.array(shares, dtype=np.float64)

    @property
    def reciprocal(self) -> Floats:
        """1 / rank of each case; its mean is the MRR."""
        return 1 / (self.ranks + 1.0)


def mean_interval(values: Sequence[float] | Floats, seed: int) -> MeanInterval:
    """Mean with its percentile bootstrap interval (Efron, 1979; 1,000 resamples)."""
    array = np.asarray(values, dtype=np.float64)
    means = array[_resamples(len(array), seed)].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return MeanInterval(float(array.mean()), float(low), float(high))


def share(part: Floats, whole: Floats, seed: int) -> MeanInterval | None:
    """Mean of `part` over mean of `whole`, with an interval over the same cases drawn for both.

    None if `whole` is 0 everywhere.
    """
    if not whole.any():
        return None
    drawn = _resamples(len(part), seed)
    ratios = part[drawn].mean(1) / np.maximum(whole[drawn].mean(1), 1e-12)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return MeanInterval(float(part.mean() / whole.mean()), float(low), float(high))


def overlap(a: RankedCases, b: RankedCases) -> float:
    """Share of the top ten that two recommenders have in common, averaged over cases."""
    return float(np.mean([common(x.tolist(), y.tolist()) for x, y in zip(a.lists, b.lists, strict=True)]))


def common(a: Sequence[object], b: Sequence[object]) -> float:
    """Share of two lists that is in both, of the longer one; 1 if both are empty."""
    longest = max(len(a), len(b))
    return len({*a} & {*b}) / longest if longest else 1.0


def rank(score: Score, cases: Cases, items: int) -> RankedCases:
    """Rank each case's target among all items that may be recommended; ties go to the earlier item.

    The rank is the best one of the target and of the items that count as it (`cases.equivalents`). Items in
    `cases.masked` are not recommended; such a target counts as not found.

    Args:
        score: returns the scores of a slice of the cases, float32 [cases in the slice, items]; bounds the memory.
        cases: histories, targets and masked items.
        items: size of the catalogue.

    Raises:
        ExportError: a score is not a number.
    """
    ranks, tops = [], np.full((len(cases.targets), TOP), NO_ITEM, dtype=np.int64)
    for part, scores in masked_scores(score, cases, items):
        ranks.append(_ranks(scores, _best_target(scores, cases.targets[part], cases.equivalents[part])))
        for top, row in zip(tops[part], scores, strict=True):
            shown = best(row)
            top[: len(shown)] = shown
    return RankedCases(np.concatenate(ranks), tops)


def masked_scores(score: Score, cases: Cases, items: int) -> Iterator[tuple[slice, Scores]]:
    """Slice after slice of the cases with its scores, with -inf for items that may not be recommended.

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


def _best_target(scores: Scores, target: Positions, same: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Each case's target, or the item that counts as it and has a better score; ties go to the earlier item."""
    if not any(map(len, same)):
        return target
    options = [np.sort(np.append(others, item)) for item, others in zip(target, same, strict=True)]
    return np.array([own[np.argmax(row[own])] for row, own in zip(scores, options, strict=True)])


def _ranks(scores: Scores, target: Positions) -> NDArray[np.int64]:
    """Ranks of `target` [cases] in masked scores [cases, items]."""
    best_score = scores[np.arange(len(target)), target][:, None]
    is_earlier = np.arange(scores.shape[1]) < target[:, None]
    ranks = (scores > best_score).sum(1) + ((scores == best_score) & is_earlier).sum(1)
    return np.where(np.isneginf(best_score[:, 0]), _NO_RANK, ranks)


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
    """Mean NDCG@10 of a random order of `items` items, one of which is the target."""
    return float((1 / np.log2(np.arange(min(TOP, items)) + 2.0)).sum() / items)


def ndcg(scores: Scores, masked: NDArray[np.int64], target: int) -> float:
    """NDCG@10 of `target` in one row of scores [items]; `masked` items are left out, ties go to the earlier item."""
    alone = Cases(np.zeros(1, np.int64), [masked], np.array([target]))
    return float(rank(lambda _: scores[None], alone, len(scores)).ndcg[0])


def _resamples(size: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, size, (_RESAMPLES, size))
