"""The memory of cold items: they get the weights of the warm items with the nearest texts.

A cold item has no counts, and the match of its text is weaker than counts: without this, a sequel would rank below
popular items. So wherever the memory recommends the items with the nearest texts, it recommends the cold item with the
mean of their weights. And because the cold item resembles these items, it follows each of them as strongly as their
strongest follower does. As an event of a history a cold item has no effect: its row is empty.

Cold items are those with popularity 0 (`export.data.popularity`). The few counts that such an item may have are
replaced.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from swiftrec.export.arrays import Histories
from swiftrec.export.blend.memory import MAX_SQUARE, fit_memory
from swiftrec.export.data.order import BY_TIME, Order
from swiftrec.server.arrays import Mask, Positions, Vectors
from swiftrec.server.catalogue.memory import Memory
from swiftrec.server.catalogue.sparse import SparseRows

Counts = NDArray[np.number[Any]]

_NEAREST = 5  # warm items for each cold one
_INVERSE_TEMPERATURE = 20.0  # of the softmax over their cosines
_MAX_COLD = 64  # cold items in a row of the memory
_BLOCK_ROWS = 1_024  # 34 MB of cosines


@dataclass(frozen=True, slots=True)
class NearestWarmItems:
    """The warm items with the nearest texts of each cold item.

    Args:
        items: cold items, int64 [cold].
        nearest: warm items, int64 [cold, k].
        shares: their weights in a mean, float32 [cold, k]; the rows sum to 1.
    """

    items: Positions
    nearest: Positions
    shares: Vectors

    @classmethod
    def of(cls, sentences: Vectors, popularity: Counts, is_cold: Mask) -> NearestWarmItems:
        """Find them among the most popular items.

        Args:
            sentences: sentence vectors of the items' texts, float32 [items, s]; without entries there are none.
            popularity: number of events of each item, [items].
            is_cold: bool [items].
        """
        counts = np.where(is_cold, 0, popularity)
        popular = np.argsort(-counts, kind="stable")[:MAX_SQUARE]
        head, items = np.sort(popular[counts[popular] > 0]), np.flatnonzero(is_cold)
        count = min(_NEAREST, len(head))
        if not sentences.shape[1] or not count:
            items = items[:0]
        nearest, cosines = np.empty((len(items), count), np.int64), np.empty((len(items), count), np.float32)
        warm_texts = np.ascontiguousarray(sentences[head].T)
        for start in range(0, len(items), _BLOCK_ROWS):
            part = slice(start, start + _BLOCK_ROWS)
            block = sentences[items[part]] @ warm_texts
            rows = np.arange(len(block))
            for n in range(count):  # taking the largest a few times is faster than a partial sort
                best = block.argmax(axis=1)
                nearest[part, n], cosines[part, n] = head[best], block[rows, best]
                block[rows, best] = -np.inf
        shares = np.exp(_INVERSE_TEMPERATURE * (cosines - cosines[:, :1]))
        shares /= shares.sum(axis=1, keepdims=True)
        return cls(items, nearest, shares)

    def mean(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The mean over the nearest warm items of values of all items, [items] -> [cold]."""
        means: NDArray[np.float64] = (values[self.nearest] * self.shares).sum(1)
        return means


def fit_full_memory(histories: Histories, counts: Counts, sentences: Vectors, order: Order = BY_TIME) -> Memory:
    """The memory of these histories, with the cold items.

    Args:
        histories: positions of items.
        counts: `export.data.popularity.popularity` of each item, 0 for cold ones, [items].
        sentences: sentence vectors of the items' texts, float32 [items, s].
        order: whether histories are ordered.
    """
    memory = fit_memory(histories, len(sentences), order)
    return with_cold_items(memory, NearestWarmItems.of(sentences, counts, counts == 0))


def with_self_weights(memory: Memory) -> Memory:
    """The memory in which each item also follows itself, as strongly as its strongest follower does."""
    return Memory(_with_self_weights(memory.transitions), _with_self_weights(memory.neighbours))


def with_cold_items(memory: Memory, cold: NearestWarmItems) -> Memory:
    """The memory with a column for each cold item; the other columns stay the same."""
    if not len(cold.items):
        return memory
    return Memory(_with_columns(memory.transitions, cold), _with_columns(memory.neighbours, cold))


def _with_self_weights(table: SparseRows) -> SparseRows:
    filled = np.flatnonzero(np.diff(table.starts))
    if not len(filled):
        return table
    strongest = np.maximum(np.maximum.reduceat(table.weights, table.starts[filled]), 0)
    others = table.positions != _rows_of(table)
    return _joined(table, others, filled, filled, strongest)


def _with_columns(table: SparseRows, cold: NearestWarmItems) -> SparseRows:
    size, whole = len(table), _with_self_weights(table)
    is_kept = ~np.isin(table.positions, cold.items)
    entries = (np.asarray(whole.weights), np.asarray(whole.positions), np.asarray(whole.starts))
    chances = sparse.csr_array(entries, shape=(size, size))
    into = (cold.nearest.ravel(), np.repeat(cold.items, cold.nearest.shape[1]))
    shares = sparse.csr_array((cold.shares.ravel(), into), shape=(size, size))
    parts = [_largest(chances[start : start + _BLOCK_ROWS] @ shares, start) for start in range(0, size, _BLOCK_ROWS)]
    rows, positions, weights = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return _joined(table, is_kept, rows, positions, weights)


def _rows_of(table: SparseRows) -> Positions:
    """The row of each entry."""
    return np.repeat(np.arange(len(table)), np.diff(table.starts))


def _joined(
    table: SparseRows, is_kept: Mask, rows: Positions, positions: Positions, weights: NDArray[np.float32]
) -> SparseRows:
    """The kept entries of the table, and other ones."""
    return SparseRows.of(
        np.concatenate([_rows_of(table)[is_kept], rows]),
        np.concatenate([table.positions[is_kept], positions]).astype(np.int64),
        np.concatenate([table.weights[is_kept], weights]).astype(np.float64),
        len(table),
    )


def _largest(block: sparse.csr_array, start: int) -> tuple[Positions, Positions, NDArray[np.float32]]:
    """The `_MAX_COLD` largest entries of each row; rows are numbered from `start`."""
    rows = np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))
    order = np.lexsort((-np.abs(block.data), rows))
    kept = order[np.arange(len(order)) - block.indptr[rows] < _MAX_COLD]
    kept = kept[block.data[kept] != 0]
    return rows[kept] + start, block.indices[kept].astype(np.int64), block.data[kept]
