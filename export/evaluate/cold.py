"""Results with new items at a fixed share of the lists, so that recommenders can be compared on *cold*.

NDCG@10 on *cold* alone can be raised by filling every list with new items, and lowered by hiding them, however well
they are ranked. So each recommender gets one offset on the scores of all new items, such that these have the same share
of its top tens on *ids*; then both tasks are ranked with it, and their figures are read as a pair. The share is that of
the new items in the catalogue: it is known before anything is measured, and random lists would have it, too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from swiftrec.export.data.split import Cases
from swiftrec.export.evaluate.metrics import TOP, RankedCases, Score, masked_scores, rank
from swiftrec.server.arrays import Floats, Mask, Positions, Scores


@dataclass(frozen=True, slots=True)
class NewItems:
    """The items that training never saw, and the cases of *ids* and *cold*.

    Args:
        warm: cases of *ids*.
        cold: cases of *cold*.
        items: size of the catalogue.
        positions: of the new items in the catalogue.
    """

    warm: Cases
    cold: Cases
    items: int
    positions: Positions

    @property
    def share(self) -> float:
        """Their share of the catalogue, at which all recommenders are compared."""
        return len(self.positions) / self.items

    def share_in(self, ranked: RankedCases) -> float:
        """Their share of the lists of `ranked`."""
        lists = np.concatenate(ranked.lists)
        return float(np.isin(lists, self.positions).mean()) if len(lists) else 0.0


@dataclass(frozen=True, slots=True)
class Adjusted:
    """Results on *ids* and *cold* with `offset` added to the scores of all new items.

    `share` is the share of new items in the lists of `ids`: that of the catalogue, or the nearest that ties allow.
    """

    offset: float
    share: float
    ids: RankedCases
    cold: RankedCases


def adjust(ids: Score, cold: Score, new_items: NewItems) -> Adjusted:
    """Rank both tasks with the offset that gives new items their share of the lists of *ids*.

    Args:
        ids: scores of the cases of *ids*, float32 [cases in the slice, items].
        cold: the same of *cold*.
        new_items: the cases and the new items, at least one.
    """
    offset = offset_for(ids, new_items)
    warm_ranked = rank(_shifted(ids, offset, new_items), new_items.warm, new_items.items)
    cold_ranked = rank(_shifted(cold, offset, new_items), new_items.cold, new_items.items)
    return Adjusted(offset, new_items.share_in(warm_ranked), warm_ranked, cold_ranked)


def offset_for(ids: Score, new_items: NewItems) -> float:
    """The offset on new items' scores with which their share of the lists is nearest to `new_items.share`.

    The best new items of a case enter its list one by one, each at an offset that follows from the scores: sorting
    these offsets over all cases gives the share at any offset exactly, without a search.
    """
    is_new = np.zeros(new_items.items, dtype=bool)
    is_new[new_items.positions] = True
    parts = [_entries(scores, is_new) for _, scores in masked_scores(ids, new_items.warm, new_items.items)]
    entries = np.concatenate(parts).astype(np.float32)  # the scores' precision: a smaller gap is a tie
    places = sum(min(TOP, new_items.items - len({*row})) for row in new_items.warm.masked)
    return _nearest(entries, new_items.share * places)


def _entries(scores: Scores, is_new: Mask) -> Floats:
    """For each case and place in its list the offset above which one more new item is in it, flat.

    -inf: it is in the list at any offset, because the list is not full without it; inf: there is no such item.
    """
    old, new = _descending(scores[:, ~is_new]), _descending(scores[:, is_new])
    with np.errstate(invalid="ignore"):
        gaps = old[:, ::-1] - new
    return np.where(np.isneginf(new), np.inf, gaps).ravel()


def _descending(scores: Scores) -> Floats:
    """The ten best of each row in order, [cases, 10]; -inf where a row has fewer."""
    best = np.full((len(scores), TOP), -np.inf)
    if scores.shape[1] > TOP:
        scores = np.partition(scores, -TOP, axis=1)[:, -TOP:]
    best[:, : scores.shape[1]] = np.sort(scores, axis=1)[:, ::-1]
    return best


def _nearest(entries: Scores, count: float) -> float:
    """The offset above which the number of entries is nearest to `count`; of two equally near ones the lower."""
    steps = np.unique(entries[np.isfinite(entries)]).astype(np.float64)
    if not len(steps):
        return 0.0
    offsets = np.concatenate([[steps[0] - 1], (steps[:-1] + steps[1:]) / 2, [steps[-1] + 1]])
    entered = np.searchsorted(np.sort(entries), offsets)
    return float(offsets[np.abs(entered - count).argmin()])


def _shifted(score: Score, offset: float, new_items: NewItems) -> Score:
    def shifted(part: slice) -> Scores:
        scores = np.array(score(part), dtype=np.float32)  # a copy: the recommender's scores must not change
        scores[:, new_items.positions] += np.float32(offset)
        return scores

    return shifted
