"""Rows of few entries: for each row, positions of items and a weight for each of them, mapped from disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from server.catalogue.filters import Positions
from server.errors import BundleError
from server.parts import row_files

Vector = NDArray[np.float32]
Places: TypeAlias = "NDArray[np.signedinteger[Any]]"
N = TypeVar("N", bound=np.generic)

SWITCH_OVER = 20_000  # items from which on the approximate index is clearly faster (docs/decisions/006)
# With one entry for so many items or more, counting over all items is faster than sorting the entries. Not in larger
# catalogues, where nothing else takes a time that grows with the items.
_DENSE = 8
_HALF = 32  # bits of a key for the place of an entry; the others are for its cell


class Boosts(NamedTuple):
    """What is added to the scores of a few items: `positions` ascending, each once, and a value for each."""

    positions: Positions
    values: Vector

    def at(self, positions: Positions) -> Vector:
        """What is added at `positions`; 0 where nothing is."""
        if not len(self.positions):
            return np.zeros(len(positions), dtype=np.float32)
        places = np.minimum(np.searchsorted(self.positions, positions), len(self.positions) - 1)
        return np.where(self.positions[places] == positions, self.values[places], np.float32(0))

    def where(self, is_kept: NDArray[np.bool_]) -> Boosts:
        """Those for which it holds, [boosts]."""
        return Boosts(self.positions[is_kept], self.values[is_kept])

    def largest(self, count: int) -> Positions:
        """The items that most is added to, at most so many."""
        if len(self.positions) <= count:
            return self.positions
        return self.positions[np.argpartition(-self.values, count)[:count]]

    def add_to(self, scores: Vector) -> None:
        """Add to the scores of all items."""
        scores[self.positions] += self.values

    def listed(self) -> Boosts:
        """The items that something is added to."""
        return self


class DenseBoosts(NamedTuple):
    """The same with a value for each item: faster where they are not few."""

    values: Vector

    def at(self, positions: Positions) -> Vector:
        """What is added at `positions`."""
        return self.values[positions]

    def add_to(self, scores: Vector) -> None:
        """Add to the scores of all items."""
        scores += self.values

    def listed(self) -> Boosts:
        """The items that something is added to."""
        kept = np.flatnonzero(self.values)
        return Boosts(kept, self.values[kept])


AnyBoosts: TypeAlias = Boosts | DenseBoosts
NO_BOOSTS = Boosts(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32))


class Entries(NamedTuple):
    """Values for items in several requests, [entries] each; a request may have an item several times.

    `owners` are numbers of requests from 0 on, `positions` those of items.
    """

    owners: Places
    positions: Places
    values: NDArray[np.floating[Any]]

    def weighted(self, weights: Vector) -> Entries:
        """The same with each value multiplied by the weight of its request, [requests]."""
        return self._replace(values=self.values * weights[self.owners])


@dataclass(frozen=True, slots=True)
class SparseRows:
    """Compressed rows.

    Args:
        starts: int64 [rows + 1], where each row's entries begin.
        positions: int32 [entries], positions of items.
        weights: float32 [entries].
    """

    starts: NDArray[np.int64]
    positions: NDArray[np.int32]
    weights: Vector

    @classmethod
    def of(cls, rows: NDArray[np.int64], positions: NDArray[np.int64], weights: NDArray[np.float64], size: int) -> Self:
        """Rows of entries (row, position, weight), in any order; the entries of a row come out by position."""
        order = np.lexsort((positions, rows))
        starts = np.searchsorted(rows[order], np.arange(size + 1))
        return cls(starts.astype(np.int64), positions[order].astype(np.int32), weights[order].astype(np.float32))

    @classmethod
    def load(cls, folder: Path, name: str, items: int) -> Self:
        """Map what `save` wrote.

        Raises:
            BundleError: names the file that is missing, is no such table, or names an item beyond `items`.
        """
        starts, positions, weights = _paths(folder, name)
        found = cls(map_array(starts, np.int64), map_array(positions, np.int32), map_array(weights, np.float32))
        if fault := found._fault(items):
            raise BundleError(f"{folder / name}-{fault}: export it again")
        return found

    def save(self, folder: Path, name: str) -> None:
        """Write `NAME-starts.npy`, `NAME-positions.npy` and `NAME-weights.npy`."""
        starts, positions, weights = _paths(folder, name)
        np.save(starts, self.starts, allow_pickle=False)
        np.save(positions, self.positions, allow_pickle=False)
        np.save(weights, self.weights, allow_pickle=False)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def size_of(self, row: int) -> int:
        """How many entries a row has."""
        return int(self.starts[row + 1] - self.starts[row])

    def holds(self, row: int, position: int) -> bool:
        """Whether a row has an entry of this position."""
        positions = self.positions[self.starts[row] : self.starts[row + 1]]
        place = int(np.searchsorted(positions, position))
        return place < len(positions) and int(positions[place]) == position

    def gather(self, rows: Places) -> tuple[NDArray[np.int32], Vector, NDArray[np.int64]]:
        """The entries of `rows`, one row after the other: positions, weights, and how many each row has."""
        starts, stops = self.starts[rows], self.starts[rows + 1]
        if not len(rows):
            return self.positions[:0], self.weights[:0], starts
        parts = [slice(begin, end) for begin, end in zip(starts.tolist(), stops.tolist(), strict=True)]
        positions = np.concatenate([self.positions[part] for part in parts])
        return positions, np.concatenate([self.weights[part] for part in parts]), stops - starts

    def _fault(self, items: int) -> str:
        """The file that does not fit the others or the catalogue, and why; empty if all fit."""
        starts, entries = self.starts, len(self.positions)
        if not len(starts) or starts[0] or starts[-1] != entries or (np.diff(starts) < 0).any():
            return f"starts.npy: its rows do not fit {entries} entries"
        if entries and not (self.positions.min() >= 0 and self.positions.max() < items):
            return f"positions.npy: its entries do not fit {items} columns"
        if len(self.weights) != entries:
            return f"weights.npy: its {len(self.weights)} entries do not fit {entries} positions"
        return "" if np.isfinite(self.weights).all() else "weights.npy: holds numbers that are not finite"


def map_array(path: Path, dtype: type[N]) -> NDArray[N]:
    """Map a list of numbers from disk.

    Raises:
        BundleError: the file is missing or holds something else.
    """
    try:
        found: NDArray[N] = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: no table ({error}): export it again") from None
    if found.dtype != dtype or found.ndim != 1:
        raise BundleError(
            f"{path}: {found.dtype}{list(found.shape)} in place of a list of {np.dtype(dtype)}: export it again"
        )
    return found


def _paths(folder: Path, name: str) -> list[Path]:
    return [folder / file for file in row_files(name)]


def merged(entries: Entries, requests: int, items: int) -> Entries:
    """Entries added up: each item of each of `requests` once, ascending, without zeros; for a catalogue of `items`."""
    if _is_dense(entries, requests, items):
        grid = _grid(entries, requests, items)
        cells = np.flatnonzero(grid)
        return _of_cells(cells, grid[cells], requests, items)
    if not len(entries.values):
        return entries
    keys = (_cells(entries, items) << _HALF) | np.arange(len(entries.values))  # whole numbers are sorted fastest
    keys.sort()
    cells, order = keys >> _HALF, keys & ((1 << _HALF) - 1)
    is_first = np.concatenate([[True], cells[1:] != cells[:-1]])
    totals, cells = np.bincount(np.cumsum(is_first) - 1, entries.values[order]), cells[is_first]
    return _of_cells(cells[totals != 0], totals[totals != 0], requests, items)


def summed(parts: Sequence[Entries], requests: int, items: int) -> list[AnyBoosts]:
    """What is added for each of `requests`: the entries of all parts, added up in their order."""
    entries = Entries(*(np.concatenate(part) for part in zip(*parts, strict=True)))
    if _is_dense(entries, requests, items):
        grid = _grid(entries, requests, items).astype(np.float32).reshape(requests, items)
        return [DenseBoosts(row) for row in grid]
    owners, positions, values = merged(entries, requests, items)
    ends = np.searchsorted(owners, np.arange(requests + 1)).tolist()
    return [Boosts(positions[begin:end], values[begin:end]) for begin, end in pairwise(ends)]


def _is_dense(entries: Entries, requests: int, items: int) -> bool:
    """Whether counting over all items of all requests is faster than sorting; the result is the same."""
    return items < SWITCH_OVER and len(entries.values) * _DENSE >= requests * items


def _cells(entries: Entries, items: int) -> NDArray[np.int64]:
    return entries.owners * np.int64(items) + entries.positions


def _grid(entries: Entries, requests: int, items: int) -> NDArray[np.float64]:
    """The sum for each item of each request, [requests * items]."""
    return np.bincount(_cells(entries, items), entries.values, requests * items).astype(np.float64, copy=False)


def _of_cells(cells: NDArray[np.int64], values: NDArray[np.float64], requests: int, items: int) -> Entries:
    """Entries of ascending places in the grid of all requests and items."""
    sizes = np.diff(np.searchsorted(cells, np.arange(requests + 1) * items))
    owners = np.arange(requests).repeat(sizes)
    return Entries(owners, cells - owners * items, values.astype(np.float32))
