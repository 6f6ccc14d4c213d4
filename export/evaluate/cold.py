"""New items at a fixed share of the lists: how well each recommender finds them when all show equally many.

NDCG@10 on *cold* alone can be had by filling every list with new items, and lost by hiding them, whatever is known of
them. So each recommender gets one offset on the scores of all new items, such that these have the same share of its
top tens on *ids*; then both tasks are ranked with it, and their figures are read as a pair. The share is that of the
new items in the catalogue: it is known before anything is measured, and lists drawn by chance would have it, too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from swiftrec.export.data.split import Cases
from swiftrec.export.evaluate.metrics import TOP, Ranked, Score, Scores, Values, masked_scores, rank


@dataclass(frozen=True, slots=True)
class Newcomers:
    """The items that training never saw (`positions`, in a catalogue of `items`), and the cases of *ids* and *cold*."""

    warm: Cases
    cold: Cases
    items: int
    positions: NDArray[np.int64]

    @property
    def share(self) -> float:
        """The share of the lists that every recommender is compared at."""
        return len(self.positions) / self.items

    def shown(self, ranked: Ranked) -> float:
        """The share of the lists of `ranked` that is new items."""
        lists = np.concatenate(ranked.lists)
        return float(np.isin(lists, self.positions).mean()) if len(lists) else 0.0


@dataclass(frozen=True, slots=True)
class Levelled:
    """Answers to *ids* and *cold* with `offset` on the scores of all new items.

    `share` is what the new items have of the lists of `ids`: the wanted share, or the nearest that ties allow.
    """

    offset: float
    share: float
    ids: Ranked
    cold: Ranked


def level(ids: Score, cold: Score, newcomers: Newcomers) -> Levelled:
    """Rank both tasks with the offset that gives new items their share of the lists of *ids*.

    Args:
        ids: scores of the cases of *ids*, float32 [cases in the slice, items].
        cold: the same of *cold*.
        newcomers: the cases and the new items, at least one.
    """
    offset = offset_for(ids, newcomers)
    warm = rank(_shifted(ids, offset, newcomers), newcomers.warm, newcomers.items)
    asked = rank(_shifted(cold, offset, newcomers), newcomers.cold, newcomers.items)
    return Levelled(offset, newcomers.shown(warm), warm, asked)


def offset_for(ids: Score, newcomers: Newcomers) -> float:
    """The offset on new items' scores with which their share of the lists is nearest to `newcomers.share`.

    The best new items of a case enter its list one by one, each at an offset that follows from the scores: sorting
    these offsets over all cases gives the share at any offset exactly, without a search.
    """
    is_new = np.zeros(newcomers.items, dtype=bool)
    is_new[newcomers.positions] = True
    parts = [_entries(scores, is_new) for _, scores in masked_scores(ids, newcomers.warm, newcomers.items)]
    entries = np.concatenate(parts).astype(np.float32)  # the scores' precision: a smaller gap is a tie
    wanted = newcomers.share * sum(min(TOP, newcomers.items - len({*row})) for row in newcomers.warm.masked)
    return _nearest(entries, wanted)


def _entries(scores: Scores, is_new: NDArray[np.bool_]) -> Values:
    """For each case and place in its list the offset beyond which one more new item is in it, flat.

    -inf: it is in the list anyway, which is not full without it; inf: there is none.
    """
    old, new = _descending(scores[:, ~is_new]), _descending(scores[:, is_new])
    with np.errstate(invalid="ignore"):
        gaps = old[:, ::-1] - new
    return np.where(np.isneginf(new), np.inf, gaps).ravel()


def _descending(scores: Scores) -> Values:
    """The ten best of each row in order, [cases, 10]; -inf where a row has fewer."""
    best = np.full((len(scores), TOP), -np.inf)
    if scores.shape[1] > TOP:
        scores = np.partition(scores, -TOP, axis=1)[:, -TOP:]
    best[:, : scores.shape[1]] = np.sort(scores, axis=1)[:, ::-1]
    return best


def _nearest(entries: Scores, wanted: float) -> float:
    """An offset above as nearly `wanted` of the entries as their ties allow; of two equally near ones the lower."""
    steps = np.unique(entries[np.isfinite(entries)]).astype(np.float64)
    if not len(steps):
        return 0.0
    offsets = np.concatenate([[steps[0] - 1], (steps[:-1] + steps[1:]) / 2, [steps[-1] + 1]])
    entered = np.searchsorted(np.sort(entries), offsets)
    return float(offsets[np.abs(entered - wanted).argmin()])


def _shifted(score: Score, offset: float, newcomers: Newcomers) -> Score:
    def shifted(part: slice) -> Scores:
        scores = np.array(score(part), dtype=np.float32)  # a copy: what is asked may not be written to
        scores[:, newcomers.positions] += np.float32(offset)
        return scores

    return shifted
