"""Rows of few entries: for each row, positions of items and a weight for each of them, mapped from disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from server.catalogue.filters import Positions
from server.errors import BundleError
from server.parts import row_files

Vector = NDArray[np.float32]
Entries: TypeAlias = "tuple[NDArray[np.signedinteger[Any]], NDArray[np.floating[Any]]]"
"""Positions of items, some of them several times, and a value for each."""
N = TypeVar("N", bound=np.generic)

SWITCH_OVER = 20_000  # items from which on the approximate index is clearly faster (docs/decisions/006)
# With one entry for so many items or more, counting over all items is faster than sorting the entries. Not in larger
# catalogues, where nothing else takes a time that grows with the items.
_DENSE = 8
_HALF = 32  # bits of a key for the position, and for the place of an entry


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

    def gather(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int32], Vector, list[int]]:
        """The entries of `rows`, one row after the other: positions, weights, and how many each row has."""
        ends = zip(self.starts[rows].tolist(), self.starts[rows + 1].tolist(), strict=True)
        parts = [slice(begin, end) for begin, end in ends] or [slice(0)]
        positions = np.concatenate([self.positions[part] for part in parts])
        weights = np.concatenate([self.weights[part] for part in parts])
        return positions, weights, [part.stop - part.start for part in parts] if len(rows) else []

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


def summed(entries: Sequence[Entries], items: int, start: AnyBoosts = NO_BOOSTS) -> AnyBoosts:
    """Entries added up by position, beginning with `start`, for a catalogue of `items`."""
    if len(entries) == 1 and isinstance(entries[0], Boosts) and not len(start.values):
        return entries[0]
    if isinstance(start, Boosts) and len(start.positions):
        return summed([start, *entries], items)
    count = sum(len(positions) for positions, _ in entries)
    if isinstance(start, DenseBoosts) or (items < SWITCH_OVER and count * _DENSE >= items):
        row = start.values.astype(np.float64) if isinstance(start, DenseBoosts) else np.zeros(items)
        for positions, values in entries:
            row += np.bincount(positions, values, items)
        return DenseBoosts(row.astype(np.float32))
    if not count:
        return NO_BOOSTS
    every, values = (np.concatenate(part) for part in zip(*entries, strict=True))
    keys = (every.astype(np.int64) << _HALF) | np.arange(count)  # sorting whole numbers is faster than their places
    keys.sort()
    positions, order = keys >> _HALF, keys & ((1 << _HALF) - 1)
    is_first = np.concatenate([[True], positions[1:] != positions[:-1]])
    total = np.bincount(np.cumsum(is_first) - 1, values[order])
    return Boosts(positions[is_first], total.astype(np.float32))
