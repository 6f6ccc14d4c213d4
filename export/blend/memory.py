"""The memory's tables, fitted on histories: transitions within a few events, and EASE with its strongest weights."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.linalg import lapack

from swiftrec.export.arrays import Histories
from swiftrec.export.data.order import BY_TIME, UNORDERED, Order
from swiftrec.server.arrays import Positions
from swiftrec.server.catalogue.memory import Memory
from swiftrec.server.catalogue.sparse import SparseRows

Square = NDArray[np.float32]

MAX_SQUARE = 8_192  # items of a square matrix, the most popular ones: 268 MB
_WINDOW = 5  # events before an item that it follows
_DECAY = 0.8  # of a pair's count with each event between the two
_PRIOR_EVENTS = 5.0  # added to the number of followers of an item: few counts say little
_MAX_FOLLOWERS = 64  # of an item
_MAX_NEIGHBOURS = 128
_PENALTY = 500.0
_MAX_EVENTS = 1_000  # of a history in the neighbours: robots have more
_BLOCK_ROWS = 512  # of a square matrix


def fit_memory(histories: Histories, items: int, order: Order = BY_TIME) -> Memory:
    """Both tables of a catalogue of `items`; cold items have empty rows, and without order there are no transitions."""
    ordered = histories if order != UNORDERED else []
    return Memory(_transitions(ordered, items), _neighbours(histories, items))


def _transitions(histories: Histories, items: int) -> SparseRows:
    pairs, weights = followers(histories, items)
    before, after = np.divmod(pairs, items)
    behind = np.bincount(before, weights, items)
    return _strongest(before, after, weights / (behind[before] + _PRIOR_EVENTS), items, _MAX_FOLLOWERS)


def followers(histories: Histories, items: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Pairs `before * items + after` and their counts within the window, discounted by distance."""
    all_pairs: list[NDArray[np.int64]] = []
    counts: list[NDArray[np.float64]] = []
    for distance in range(1, _WINDOW + 1):
        parts = [h[:-distance] * items + h[distance:] for h in histories if len(h) > distance]
        pairs, often = np.unique(np.concatenate([np.empty(0, np.int64), *parts]), return_counts=True)
        all_pairs.append(pairs)
        counts.append((often * _DECAY ** (distance - 1)).astype(np.float64))
    unique, inverse = np.unique(np.concatenate(all_pairs), return_inverse=True)
    return unique, np.bincount(inverse, np.concatenate(counts), len(unique)).astype(np.float64)


def _neighbours(histories: Histories, items: int) -> SparseRows:
    head = most_popular(histories, items)
    if not len(head):
        return SparseRows.of(head, head, head.astype(np.float64), items)
    kept = min(_MAX_NEIGHBOURS, len(head))
    columns, values = _largest(ease(gram(histories, head, items)), kept)
    rows = np.repeat(head, kept)
    filled = np.flatnonzero(values)
    return SparseRows.of(rows[filled], head[columns[filled]], values[filled], items)


def _largest(weights: Square, kept: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Columns and values of the `kept` entries of each row with the largest absolute values, flat."""
    columns, values = [np.empty(0, np.int64)], [np.empty(0)]
    for start in range(0, len(weights), _BLOCK_ROWS):
        part = weights[start : start + _BLOCK_ROWS]
        best = np.argpartition(-np.abs(part), kept - 1, axis=1)[:, :kept]
        columns.append(best.ravel())
        values.append(np.take_along_axis(part, best, axis=1).ravel().astype(np.float64))
    return np.concatenate(columns), np.concatenate(values)


def most_popular(histories: Histories, items: int) -> NDArray[np.int64]:
    """The items of the square matrix, ascending: the most popular ones with interactions."""
    counts = np.bincount(np.concatenate([np.empty(0, np.int64), *histories]), minlength=items)
    best = np.argsort(-counts, kind="stable")[:MAX_SQUARE]
    return np.sort(best[counts[best] > 0])


def interaction_matrix(histories: Histories, head: NDArray[np.int64], items: int) -> sparse.csr_array:
    """1 for the items of `head` among a user's last events, [users, head]."""
    position = np.full(items, -1)
    position[head] = np.arange(len(head))
    rows = [np.unique(known[known >= 0]) for known in (position[h[-_MAX_EVENTS:]] for h in histories)]
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    columns = np.concatenate([np.empty(0, np.int64), *rows])
    return sparse.csr_array((np.ones(len(columns), np.float32), columns, starts), shape=(len(rows), len(head)))


def gram(histories: Histories, head: NDArray[np.int64], items: int) -> Square:
    """The number of users with both items, [head, head]; only a block of rows is copied at a time."""
    by_user = interaction_matrix(histories, head, items)
    by_item = by_user.T.tocsr()
    counts = np.empty((len(head), len(head)), np.float32)
    for start in range(0, len(head), _BLOCK_ROWS):
        counts[start : start + _BLOCK_ROWS] = (by_item[start : start + _BLOCK_ROWS] @ by_user).toarray()
    return counts


def ease(counts: Square) -> Square:
    """Closed-form linear autoencoder of a gram matrix (Steck, WWW 2019); row: in the history, column: recommended.

    It is computed in place.
    """
    np.fill_diagonal(counts, counts.diagonal() + np.float32(_PENALTY))
    factor, _ = lapack.spotrf(counts.T, overwrite_a=1)  # symmetric, and LAPACK reads columns
    half, _ = lapack.spotri(factor, overwrite_c=1)  # a triangle of the inverse, in a third of a general one's time
    weights: Square = half.T
    for start in range(0, len(weights), _BLOCK_ROWS):
        end = start + _BLOCK_ROWS
        corner = weights[start:end, start:end]
        corner += np.tril(corner, -1).T
        weights[start:end, end:] = weights[end:, start:end].T
    weights /= -weights.diagonal().copy()
    np.fill_diagonal(weights, 0)
    return weights


def _strongest(
    rows: Positions, positions: Positions, weights: NDArray[np.float64], items: int, kept: int
) -> SparseRows:
    """The `kept` largest entries of each row."""
    order = np.lexsort((positions, -weights, rows))
    first = np.searchsorted(rows[order], np.arange(items))
    rank = np.arange(len(order)) - first[rows[order]]
    best = order[rank < kept]
    return SparseRows.of(rows[best], positions[best], weights[best], items)
