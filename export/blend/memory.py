"""The memory's tables, fitted on histories; the baselines of the same names are these tables unpruned or alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.linalg import lapack

from export.data.order import BY_TIME, UNORDERED, Order
from server.catalogue.memory import Memory
from server.catalogue.sparse import SparseRows

Histories = list[NDArray[np.int64]]
Square = NDArray[np.float32]

MAX_SQUARE = 8_192  # items of a square matrix, the most popular ones: 268 MB
_WINDOW = 5  # events that an item follows
_NEARER = 0.8  # of a pair's count with each event between the two
_PRIOR = 5.0  # events that are added to those behind an item: what came once says little
_FOLLOWERS = 64  # items kept for each item
_NEIGHBOURS = 128
_PENALTY = 500.0
_LAST = 1_000  # events of a history that make pairs: of robots there are more


def fit_memory(histories: Histories, items: int, order: Order = BY_TIME) -> Memory:
    """Both tables of a catalogue of `items`; items that nobody took have empty rows, without order nothing follows."""
    ordered = histories if order != UNORDERED else []
    return Memory(_transitions(ordered, items), _neighbours(histories, items))


def _transitions(histories: Histories, items: int) -> SparseRows:
    pairs, weights = followers(histories, items)
    before, after = np.divmod(pairs, items)
    behind = np.bincount(before, weights, items)
    return _strongest(before, after, weights / (behind[before] + _PRIOR), items, _FOLLOWERS)


def followers(histories: Histories, items: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Pairs `before * items + after` and how often they occurred within the window, nearer ones counting more."""
    found: list[NDArray[np.int64]] = []
    counts: list[NDArray[np.float64]] = []
    for distance in range(1, _WINDOW + 1):
        parts = [h[:-distance] * items + h[distance:] for h in histories if len(h) > distance]
        pairs, often = np.unique(np.concatenate([np.empty(0, np.int64), *parts]), return_counts=True)
        found.append(pairs)
        counts.append((often * _NEARER ** (distance - 1)).astype(np.float64))
    every, place = np.unique(np.concatenate(found), return_inverse=True)
    return every, np.bincount(place, np.concatenate(counts), len(every)).astype(np.float64)


def _neighbours(histories: Histories, items: int) -> SparseRows:
    head = most_taken(histories, items)
    if not len(head):
        return SparseRows.of(head, head, head.astype(np.float64), items)
    weights = ease(gram(histories, head, items))
    kept = min(_NEIGHBOURS, len(head))
    columns = np.argpartition(-np.abs(weights), kept - 1, axis=1)[:, :kept]
    values = np.take_along_axis(weights, columns, axis=1).ravel().astype(np.float64)
    rows = np.repeat(head, kept)
    some = np.flatnonzero(values)
    return SparseRows.of(rows[some], head[columns.ravel()[some]], values[some], items)


def most_taken(histories: Histories, items: int) -> NDArray[np.int64]:
    """The items that a square matrix has, ascending: the most popular of those that somebody took."""
    counts = np.bincount(np.concatenate([np.empty(0, np.int64), *histories]), minlength=items)
    best = np.argsort(-counts, kind="stable")[:MAX_SQUARE]
    return np.sort(best[counts[best] > 0])


def gram(histories: Histories, head: NDArray[np.int64], items: int) -> Square:
    """How many users have both items, [head, head]."""
    place = np.full(items, -1)
    place[head] = np.arange(len(head))
    rows = [np.unique(kept[kept >= 0]) for h in histories if len(kept := place[h[-_LAST:]])]
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    columns = np.concatenate([np.empty(0, np.int64), *rows])
    taken = sparse.csr_array((np.ones(len(columns), np.float32), columns, starts), shape=(len(rows), len(head)))
    found: Square = (taken.T @ taken).toarray()
    return found


def ease(counts: Square) -> Square:
    """Closed-form linear autoencoder of a gram matrix (Steck, WWW 2019); row: taken, column: recommended."""
    factor, _ = lapack.spotrf(counts + np.float32(_PENALTY) * np.eye(len(counts), dtype=np.float32))
    half, _ = lapack.spotri(factor)  # the upper triangle of the inverse, in a third of the time of a general one
    inverse = np.triu(half) + np.triu(half, 1).T
    weights: Square = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return weights


def _strongest(
    rows: NDArray[np.int64], positions: NDArray[np.int64], weights: NDArray[np.float64], items: int, kept: int
) -> SparseRows:
    """The `kept` largest entries of each row."""
    order = np.lexsort((positions, -weights, rows))
    first = np.searchsorted(rows[order], np.arange(items))
    rank = np.arange(len(order)) - first[rows[order]]
    best = order[rank < kept]
    return SparseRows.of(rows[best], positions[best], weights[best], items)
