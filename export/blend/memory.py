"""The memory's tables, fitted on histories: transitions within a few events, and EASE with its strongest weights."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.linalg import lapack

from swiftrec.export.data.order import BY_TIME, UNORDERED, Order
from swiftrec.server.catalogue.sparse import Memory, SparseRows

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
_ROWS = 512  # of a square matrix that are looked at together


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
    kept = min(_NEIGHBOURS, len(head))
    columns, values = _largest(ease(gram(histories, head, items)), kept)
    rows = np.repeat(head, kept)
    some = np.flatnonzero(values)
    return SparseRows.of(rows[some], head[columns[some]], values[some], items)


def _largest(weights: Square, kept: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Columns and values of the `kept` entries of each row that are farthest from 0, flat."""
    columns, values = [np.empty(0, np.int64)], [np.empty(0)]
    for start in range(0, len(weights), _ROWS):
        part = weights[start : start + _ROWS]
        best = np.argpartition(-np.abs(part), kept - 1, axis=1)[:, :kept]
        columns.append(best.ravel())
        values.append(np.take_along_axis(part, best, axis=1).ravel().astype(np.float64))
    return np.concatenate(columns), np.concatenate(values)


def most_taken(histories: Histories, items: int) -> NDArray[np.int64]:
    """The items that a square matrix has, ascending: the most popular of those that somebody took."""
    counts = np.bincount(np.concatenate([np.empty(0, np.int64), *histories]), minlength=items)
    best = np.argsort(-counts, kind="stable")[:MAX_SQUARE]
    return np.sort(best[counts[best] > 0])


def taken(histories: Histories, head: NDArray[np.int64], items: int) -> sparse.csr_array:
    """1 where a user has an item of `head` among the last events, [users, head]."""
    place = np.full(items, -1)
    place[head] = np.arange(len(head))
    rows = [np.unique(known[known >= 0]) for known in (place[h[-_LAST:]] for h in histories)]
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    columns = np.concatenate([np.empty(0, np.int64), *rows])
    return sparse.csr_array((np.ones(len(columns), np.float32), columns, starts), shape=(len(rows), len(head)))


def gram(histories: Histories, head: NDArray[np.int64], items: int) -> Square:
    """How many users have both items, [head, head]; beside it memory for some of its rows only."""
    by_user = taken(histories, head, items)
    by_item = by_user.T.tocsr()
    found = np.empty((len(head), len(head)), np.float32)
    for start in range(0, len(head), _ROWS):
        found[start : start + _ROWS] = (by_item[start : start + _ROWS] @ by_user).toarray()
    return found


def ease(counts: Square) -> Square:
    """Closed-form linear autoencoder of a gram matrix (Steck, WWW 2019); row: taken, column: recommended.

    It is computed in the place of `counts`.
    """
    np.fill_diagonal(counts, counts.diagonal() + np.float32(_PENALTY))
    factor, _ = lapack.spotrf(counts.T, overwrite_a=1)  # symmetric, and LAPACK reads columns
    half, _ = lapack.spotri(factor, overwrite_c=1)  # a triangle of the inverse, in a third of a general one's time
    weights: Square = half.T
    for start in range(0, len(weights), _ROWS):
        end = start + _ROWS
        corner = weights[start:end, start:end]
        corner += np.tril(corner, -1).T
        weights[start:end, end:] = weights[end:, start:end].T
    weights /= -weights.diagonal().copy()
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
