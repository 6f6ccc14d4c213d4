"""Sparse tables of items, and boosts of scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from swiftrec.server.arrays import AnyPositions, Mask, Positions, Scores, StoredPositions, Vector
from swiftrec.server.errors import BundleError
from swiftrec.server.parts import row_files

N = TypeVar("N", bound=np.generic)
F = TypeVar("F", bound=np.floating[Any])

SWITCH_OVER = 20_000  # items: from this number the approximate index is clearly faster (docs/decisions/006)
# With at least one entry for this number of items, counting over all items is faster than sorting the entries. Not used
# in larger catalogues, where no other step takes time proportional to the number of items.
_ITEMS_PER_ENTRY = 8
_INDEX_BITS = 32  # of a key, for the index of an entry; the others are for its cell


class Boosts(NamedTuple):
    """Values added to the scores of a few items: ascending, distinct `positions`, and a value for each."""

    positions: Positions
    values: Scores

    def at(self, positions: Positions) -> Vector:
        """The values at `positions`; 0 for items without a boost."""
        return values_at(self.positions, self.values, positions)

    def where(self, is_kept: Mask) -> Boosts:
        """The boosts selected by a boolean array [boosts]."""
        return Boosts(self.positions[is_kept], self.values[is_kept])

    def largest(self, count: int) -> Positions:
        """The `count` items with the largest boosts, or fewer."""
        if len(self.positions) <= count:
            return self.positions
        return self.positions[np.argpartition(-self.values, count)[:count]]

    def add_to(self, scores: Scores) -> None:
        """Add to the scores of all items."""
        scores[self.positions] += self.values

    def listed(self) -> Boosts:
        """The boosts as a list of items."""
        return self


class DenseBoosts(NamedTuple):
    """Boosts with a value for each item: faster if there are many."""

    values: Scores

    def at(self, positions: Positions) -> Vector:
        """The values at `positions`."""
        return self.values[positions]

    def add_to(self, scores: Scores) -> None:
        """Add to the scores of all items."""
        scores += self.values

    def listed(self) -> Boosts:
        """The boosts as a list of items."""
        positions = np.flatnonzero(self.values)
        return Boosts(positions, self.values[positions])


AnyBoosts: TypeAlias = Boosts | DenseBoosts
NO_BOOSTS = Boosts(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32))


class Entries(NamedTuple):
    """Values of items for several requests, [entries] each; a request may have an item several times.

    `owners` are indices of requests, `positions` those of items.
    """

    owners: AnyPositions
    positions: AnyPositions
    values: NDArray[np.floating[Any]]

    def weighted(self, weights: Scores) -> Entries:
        """The entries multiplied by the weights of their requests, [requests]."""
        return self._replace(values=self.values * weights[self.owners])


@dataclass(frozen=True, slots=True)
class SparseRows:
    """A sparse matrix (CSR): the start of each row [rows + 1], and the positions and weights of items [entries]."""

    starts: Positions
    positions: StoredPositions
    weights: Scores

    @classmethod
    def of(cls, rows: NDArray[np.int64], positions: Positions, weights: NDArray[np.float64], size: int) -> Self:
        """Make rows of unordered entries (row, position, weight); the entries of a row are sorted by position."""
        order = np.lexsort((positions, rows))
        starts = np.searchsorted(rows[order], np.arange(size + 1))
        return cls(starts.astype(np.int64), positions[order].astype(np.int32), weights[order].astype(np.float32))

    @classmethod
    def empty(cls, size: int) -> Self:
        """Rows without entries."""
        return cls(np.zeros(size + 1, np.int64), np.empty(0, np.int32), np.empty(0, np.float32))

    @classmethod
    def load(cls, folder: Path, name: str, items: int) -> Self:
        """Map what `save` wrote.

        Raises:
            BundleError: names the file that is missing, malformed, or has a position beyond `items`.
        """
        starts, positions, weights = (folder / file for file in row_files(name))
        loaded = cls(map_array(starts, np.int64), map_array(positions, np.int32), map_array(weights, np.float32))
        if fault := loaded._fault(items):
            raise BundleError(f"{folder / name}-{fault}: export it again")
        return loaded

    def save(self, folder: Path, name: str) -> None:
        """Write `NAME-starts.npy`, `NAME-positions.npy` and `NAME-weights.npy`."""
        arrays: tuple[NDArray[Any], ...] = (self.starts, self.positions, self.weights)
        for file, array in zip(row_files(name), arrays, strict=True):
            np.save(folder / file, array, allow_pickle=False)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def contains(self, row: int, position: int) -> bool:
        """Whether a row has an entry at this position."""
        positions = self.positions[self.starts[row] : self.starts[row + 1]]
        index = int(np.searchsorted(positions, position))
        return index < len(positions) and int(positions[index]) == position

    def gather(self, rows: AnyPositions) -> tuple[NDArray[np.int32], Vector, NDArray[np.int64]]:
        """The concatenated entries of `rows`: positions, weights, and the number of entries of each row."""
        starts, stops = self.starts[rows], self.starts[rows + 1]
        if not len(rows):
            return self.positions[:0], self.weights[:0], starts
        parts = [slice(begin, end) for begin, end in zip(starts.tolist(), stops.tolist(), strict=True)]
        positions = np.concatenate([self.positions[part] for part in parts])
        return positions, np.concatenate([self.weights[part] for part in parts]), stops - starts

    def _fault(self, items: int) -> str:
        """The file that does not match the others or the catalogue, and why; empty if all match."""
        starts, entries = self.starts, len(self.positions)
        if not len(starts) or starts[0] or starts[-1] != entries or (np.diff(starts) < 0).any():
            return f"starts.npy: its rows do not fit {entries} entries"
        if entries and not (self.positions.min() >= 0 and self.positions.max() < items):
            return f"positions.npy: its entries do not fit {items} columns"
        if len(self.weights) != entries:
            return f"weights.npy: its {len(self.weights)} entries do not fit {entries} positions"
        return "" if np.isfinite(self.weights).all() else "weights.npy: has numbers that are not finite"


def map_array(path: Path, dtype: type[N]) -> NDArray[N]:
    """Map a one-dimensional array from disk.

    Raises:
        BundleError: the file is missing or has other content.
    """
    try:
        loaded: NDArray[N] = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: not an array ({error}): export it again") from None
    if loaded.dtype != dtype or loaded.ndim != 1:
        actual = f"{loaded.dtype}{list(loaded.shape)}"
        raise BundleError(f"{path}: {actual} instead of a list of {np.dtype(dtype)}: export it again")
    return loaded


def find_sorted(ascending: NDArray[N], required: NDArray[Any]) -> tuple[Positions, Mask]:
    """The index of each required value in an ascending array, and whether the array has it."""
    if not len(ascending):
        return np.zeros(len(required), dtype=np.int64), np.zeros(len(required), dtype=np.bool_)
    places = np.minimum(np.searchsorted(ascending, required), len(ascending) - 1)
    return places, ascending[places] == required


def values_at(ascending: AnyPositions, values: NDArray[F], required: Positions) -> NDArray[F]:
    """The values of the required positions; 0 for those not in the ascending array."""
    if not len(ascending):
        return np.zeros(len(required), dtype=values.dtype)
    places, is_found = find_sorted(ascending, required)
    return np.where(is_found, values[places], values.dtype.type(0))


def merged(entries: Entries, requests: int, items: int) -> Entries:
    """Sum the entries of each item of each request: distinct items, ascending, without zeros."""
    if _is_dense(entries, requests, items):
        grid = _grid(entries, requests, items)
        cells = np.flatnonzero(grid)
        return _of_cells(cells, grid[cells], requests, items)
    if not len(entries.values):
        return entries
    keys = (_cells(entries, items) << _INDEX_BITS) | np.arange(len(entries.values))  # sorting integers is fastest
    keys.sort()
    cells, order = keys >> _INDEX_BITS, keys & ((1 << _INDEX_BITS) - 1)
    is_first = np.concatenate([[True], cells[1:] != cells[:-1]])
    totals, cells = np.bincount(np.cumsum(is_first) - 1, entries.values[order]), cells[is_first]
    return _of_cells(cells[totals != 0], totals[totals != 0], requests, items)


def summed(parts: Sequence[Entries], requests: int, items: int) -> list[AnyBoosts]:
    """The boosts of each request: the sum of the entries of all parts, in their order."""
    entries = Entries(*(np.concatenate(part) for part in zip(*parts, strict=True)))
    if _is_dense(entries, requests, items):
        grid = _grid(entries, requests, items).astype(np.float32).reshape(requests, items)
        return [DenseBoosts(row) for row in grid]
    owners, positions, values = merged(entries, requests, items)
    ends = np.searchsorted(owners, np.arange(requests + 1)).tolist()
    return [Boosts(positions[begin:end], values[begin:end]) for begin, end in pairwise(ends)]


def _is_dense(entries: Entries, requests: int, items: int) -> bool:
    """Whether counting over all items of all requests is faster than sorting; the results are the same."""
    return items < SWITCH_OVER and len(entries.values) * _ITEMS_PER_ENTRY >= requests * items


def _cells(entries: Entries, items: int) -> NDArray[np.int64]:
    return entries.owners * np.int64(items) + entries.positions


def _grid(entries: Entries, requests: int, items: int) -> NDArray[np.float64]:
    """The sum for each item of each request, [requests * items]."""
    return np.bincount(_cells(entries, items), entries.values, requests * items).astype(np.float64, copy=False)


def _of_cells(cells: NDArray[np.int64], values: NDArray[np.float64], requests: int, items: int) -> Entries:
    """Entries of ascending cells in the grid of all requests and items."""
    sizes = np.diff(np.searchsorted(cells, np.arange(requests + 1) * items))
    owners = np.arange(requests).repeat(sizes)
    return Entries(owners, cells - owners * items, values.astype(np.float32))
