"""The baselines that every model is compared with: fitted on histories once, then scored in slices of cases.

Memory is bounded for every catalogue: kNN and EASE know only the most popular items, of which EASE holds a square
matrix; kNN and transitions are kept as sparse tables; scores are computed in slices.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from swiftrec.export.arrays import Histories
from swiftrec.export.blend.memory import ease, gram, interaction_matrix, most_popular
from swiftrec.export.data.order import BY_TIME, UNORDERED, Order
from swiftrec.server.arrays import Scores

Baseline = Callable[[Histories], Scores]
"""Histories, oldest first -> scores float32 [histories, items]."""

POPULARITY, RECENT_POPULARITY, TRANSITIONS = "popularity", "recent popularity", "transitions"
WITHOUT_HISTORY = (POPULARITY, RECENT_POPULARITY)  # the same ranking for every request
_RECENT = 10  # last events of each user that "recent popularity" counts
_KNN_NEIGHBOURS = 100
_KNN_ROWS = 512  # of the square matrix that are processed together
_TRANSITION_DECAY = 0.6
_TRANSITION_EVENTS = 10
_TRANSITION_PRIOR = 5


def fit_baselines(known: Histories, items: int, order: Order = BY_TIME) -> dict[str, Baseline]:
    """Name -> baseline of a catalogue of `items`; without order transitions are pairs, and nothing is recent."""
    counts = np.bincount(np.concatenate(known), minlength=items)
    recent = np.bincount(np.concatenate([h[-_RECENT:] for h in known]), minlength=items)
    head = most_popular(known, items)
    together = gram(known, head, items)
    lately = {} if order == UNORDERED else {RECENT_POPULARITY: _constant(recent.astype(np.float32))}
    return {
        POPULARITY: popularity(known, items),
        **lately,
        "item kNN": _square(_knn(together), head, items),
        "EASE": _square(ease(together), head, items),
        TRANSITIONS: _transitions(known, counts, order),
    }


def popularity(known: Histories, items: int) -> Baseline:
    """Items by their number of interactions, the same for every request."""
    return _constant(np.bincount(np.concatenate(known), minlength=items).astype(np.float32))


def _constant(scores: Scores) -> Baseline:
    return lambda histories: np.broadcast_to(scores, (len(histories), len(scores)))


def _square(weights: Scores | sparse.csr_array, head: NDArray[np.int64], items: int) -> Baseline:
    """Scores as a sum over the items of a history; items outside `head` have none."""

    def score(histories: Histories) -> Scores:
        scores = np.zeros((len(histories), items), dtype=np.float32)
        summed = interaction_matrix(histories, head, items) @ weights
        scores[:, head] = summed.toarray() if sparse.issparse(summed) else summed
        return scores

    return score


def _knn(together: Scores) -> sparse.csr_array:
    """Cosine between item columns, the nearest ones kept (Sarwar et al., WWW 2001)."""
    norms = np.sqrt(np.diag(together)) + np.float32(1e-9)
    keep, parts = min(_KNN_NEIGHBOURS, len(together) - 1), []
    for start in range(0, len(together), _KNN_ROWS):
        rows = np.arange(start, min(len(together), start + _KNN_ROWS))
        cosine = together[rows] / norms[rows, None] / norms
        cosine[np.arange(len(rows)), rows] = 0
        cosine[cosine < np.partition(cosine, -keep, axis=1)[:, -keep][:, None]] = 0
        parts.append(sparse.csr_array(cosine))
    return sparse.vstack(parts).T.tocsr()


def _transitions(known: Histories, counts: NDArray[np.int64], order: Order) -> Baseline:
    """How often an item came next, summed over the last events with a decay; popularity breaks ties.

    Without order: how often two items were neighbours, counted both ways, summed over all events without a decay.
    """
    items = len(counts)
    decay, last = (1.0, None) if order == UNORDERED else (_TRANSITION_DECAY, _TRANSITION_EVENTS)
    pairs = np.concatenate([h[:-1] * items + h[1:] for h in known])
    if order == UNORDERED:
        pairs = np.concatenate([pairs, *(h[1:] * items + h[:-1] for h in known)])
    pair, often = np.unique(pairs, return_counts=True)
    before, after = np.divmod(pair, items)
    left = np.bincount(before, weights=often, minlength=items)
    chance = (often / (left[before] + _TRANSITION_PRIOR)).astype(np.float32)
    begin = np.searchsorted(before, np.arange(items + 1))

    def score(histories: Histories) -> Scores:
        scores = np.tile((counts * 1e-9).astype(np.float32), (len(histories), 1))
        for row, history in zip(scores, histories, strict=True):
            for age, item in enumerate(history[::-1][:last]):
                part = slice(begin[item], begin[item + 1])
                row[after[part]] += decay**age * chance[part]
        return scores

    return score
