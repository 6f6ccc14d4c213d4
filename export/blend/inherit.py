"""How the memory recommends new items: as it recommends the known items with the nearest texts.

Counts know nothing of a new item, and the match of its text is weaker than counts: without this, a sequel would rank
below whatever is popular. So wherever the memory recommends the items with the nearest texts, it recommends the new
item with the mean of their weights. And because the new item resembles these items themselves, it follows each of them
as strongly as their strongest follower does. As an event of a history a new item still says nothing: its row is empty.

New is what `export.data.popularity` calls new. The few counts that such an item may have are replaced.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from swiftrec.export.blend.memory import MAX_SQUARE, Histories, fit_memory
from swiftrec.export.data.order import BY_TIME, Order
from swiftrec.server.catalogue.sparse import Memory, SparseRows

Vectors = NDArray[np.float32]
Rows = NDArray[np.int64]
Counts = NDArray[np.number[Any]]

_NEAREST = 5  # items that a new one inherits from
_SHARPNESS = 20.0  # of the softmax over their cosines
_INHERITED = 64  # new items kept for each item
_BLOCK = 1_024  # rows looked at a time: 34 MB of cosines


@dataclass(frozen=True, slots=True)
class Heirs:
    """Items and whom they inherit from.

    Args:
        items: int64 [heirs].
        nearest: the known items with the nearest texts, int64 [heirs, k].
        shares: of each of them in what is inherited, float32 [heirs, k]; the rows sum to 1.
    """

    items: Rows
    nearest: Rows
    shares: Vectors

    @classmethod
    def of(cls, sentences: Vectors, popularity: Counts, is_new: NDArray[np.bool_]) -> Heirs:
        """The items of `is_new` [items] as heirs of the most popular others.

        Args:
            sentences: sentence vectors of the items' texts, float32 [items, s]; without entries nobody inherits.
            popularity: number of events of each item, [items].
            is_new: bool [items].
        """
        known = np.where(is_new, 0, popularity)
        popular = np.argsort(-known, kind="stable")[:MAX_SQUARE]
        head, items = np.sort(popular[known[popular] > 0]), np.flatnonzero(is_new)
        count = min(_NEAREST, len(head))
        if not sentences.shape[1] or not count:
            items = items[:0]
        nearest, cosines = np.empty((len(items), count), np.int64), np.empty((len(items), count), np.float32)
        known_texts = np.ascontiguousarray(sentences[head].T)
        for start in range(0, len(items), _BLOCK):
            part = slice(start, start + _BLOCK)
            near = sentences[items[part]] @ known_texts
            rows = np.arange(len(near))
            for n in range(count):  # a few times the largest is faster than a partial sort
                best = near.argmax(axis=1)
                nearest[part, n], cosines[part, n] = head[best], near[rows, best]
                near[rows, best] = -np.inf
        shares = np.exp(_SHARPNESS * (cosines - cosines[:, :1]))
        shares /= shares.sum(axis=1, keepdims=True)
        return cls(items, nearest, shares)

    def inherit(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """What the heirs have of values of all items, [items] -> [heirs]."""
        found: NDArray[np.float64] = (values[self.nearest] * self.shares).sum(1)
        return found


def fit_whole_memory(histories: Histories, counts: Counts, sentences: Vectors, order: Order = BY_TIME) -> Memory:
    """The memory of these histories, with what new items inherit.

    Args:
        histories: positions of items.
        counts: `export.data.popularity.popularity` of each item, 0 for new ones, [items].
        sentences: sentence vectors of the items' texts, float32 [items, s].
        order: what the order of a history says.
    """
    memory = fit_memory(histories, len(sentences), order)
    return with_heirs(memory, Heirs.of(sentences, counts, counts == 0))


def with_itself(memory: Memory) -> Memory:
    """The memory in which each item also follows itself, as strongly as its strongest follower does."""
    return Memory(_with_itself(memory.transitions), _with_itself(memory.neighbours))


def with_heirs(memory: Memory, heirs: Heirs) -> Memory:
    """The memory with a new column for each heir; nothing else in its rows changes."""
    if not len(heirs.items):
        return memory
    return Memory(_with_columns(memory.transitions, heirs), _with_columns(memory.neighbours, heirs))


def _with_itself(table: SparseRows) -> SparseRows:
    filled = np.flatnonzero(np.diff(table.starts))
    if not len(filled):
        return table
    strongest = np.maximum(np.maximum.reduceat(table.weights, table.starts[filled]), 0)
    others = table.positions != _rows_of(table)
    return _joined(table, others, filled, filled, strongest)


def _with_columns(table: SparseRows, heirs: Heirs) -> SparseRows:
    size, whole = len(table), _with_itself(table)
    is_kept = ~np.isin(table.positions, heirs.items)
    entries = (np.asarray(whole.weights), np.asarray(whole.positions), np.asarray(whole.starts))
    chances = sparse.csr_array(entries, shape=(size, size))
    into = (heirs.nearest.ravel(), np.repeat(heirs.items, heirs.nearest.shape[1]))
    shares = sparse.csr_array((heirs.shares.ravel(), into), shape=(size, size))
    parts = [_largest(chances[start : start + _BLOCK] @ shares, start) for start in range(0, size, _BLOCK)]
    rows, positions, weights = (np.concatenate(some) for some in zip(*parts, strict=True))
    return _joined(table, is_kept, rows, positions, weights)


def _rows_of(table: SparseRows) -> Rows:
    """The row of each entry."""
    return np.repeat(np.arange(len(table)), np.diff(table.starts))


def _joined(
    table: SparseRows, is_kept: NDArray[np.bool_], rows: Rows, positions: Rows, weights: NDArray[np.float32]
) -> SparseRows:
    """The entries of the table that are kept, and more of them."""
    return SparseRows.of(
        np.concatenate([_rows_of(table)[is_kept], rows]),
        np.concatenate([table.positions[is_kept], positions]).astype(np.int64),
        np.concatenate([table.weights[is_kept], weights]).astype(np.float64),
        len(table),
    )


def _largest(block: sparse.csr_array, start: int) -> tuple[Rows, Rows, NDArray[np.float32]]:
    """The `_INHERITED` largest entries of each row, row numbers beginning at `start`."""
    rows = np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))
    order = np.lexsort((-np.abs(block.data), rows))
    kept = order[np.arange(len(order)) - block.indptr[rows] < _INHERITED]
    kept = kept[block.data[kept] != 0]
    return rows[kept] + start, block.indices[kept].astype(np.int64), block.data[kept]
