"""Filters as sets of bits: one for each item, packed, so that a million items take 125 KB."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.uint8]
Positions = NDArray[np.int64]

WORD_BITS = 64


@dataclass(frozen=True, slots=True)
class AttributeValues:
    """An attribute and values, each of which is kept once."""

    name: str
    values: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(dict.fromkeys(self.values)))


@dataclass(frozen=True, slots=True)
class Filter:
    """Conditions that hold together; empty ones do not narrow."""

    allowed: frozenset[str] = frozenset()
    denied: frozenset[str] = frozenset()
    any_of: tuple[AttributeValues, ...] = ()
    all_of: tuple[AttributeValues, ...] = ()
    none_of: tuple[AttributeValues, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether it has no condition."""
        return not (self.allowed or self.denied or self.any_of or self.all_of or self.none_of)


@dataclass(frozen=True, slots=True)
class Allowed:
    """Which of `items` may be answered, and how many: those whose bit is set; without bits all but `denied` (few).

    `denied` are ascending. `missing`: how many hold the conditions, but are denied. They may be the best of all: what a
    user has seen is.
    """

    items: int
    count: int
    bits: Bits | None
    denied: Positions
    missing: int

    def holds(self, positions: Positions) -> NDArray[np.bool_]:
        """Whether each of them may be answered."""
        return ~is_among(positions, self.denied) if self.bits is None else has_bit(positions, self.bits)

    def positions(self) -> Positions:
        """All of them, ascending."""
        if self.bits is None:
            return np.delete(np.arange(self.items), self.denied)
        return np.flatnonzero(np.unpackbits(self.bits, bitorder="little", count=self.items).view(np.bool_))


def pack(positions: NDArray[np.int32] | Positions, items: int) -> Bits:
    """A bit for each of `items`, set for the given positions, with zeros up to a whole number of words."""
    flags = np.zeros(-(-items // WORD_BITS) * WORD_BITS, dtype=np.bool_)
    flags[positions] = True
    return np.packbits(flags, bitorder="little")


def count_bits(bits: Bits) -> int:
    """How many bits are set."""
    return int(np.bitwise_count(bits.view(np.uint64)).sum())


def has_bit(positions: NDArray[np.int32] | Positions, bits: Bits) -> NDArray[np.bool_]:
    """Whether the bit of each position is set."""
    is_set: NDArray[np.bool_] = (bits[positions >> 3] >> (positions & 7) & 1).astype(np.bool_)
    return is_set


def is_among(positions: NDArray[np.int32] | Positions, ascending: NDArray[np.int32] | Positions) -> NDArray[np.bool_]:
    """Whether each position is one of the ascending ones."""
    if not len(ascending):
        return np.zeros(len(positions), dtype=np.bool_)
    places = np.minimum(np.searchsorted(ascending, positions), len(ascending) - 1)
    is_found: NDArray[np.bool_] = ascending[places] == positions
    return is_found
