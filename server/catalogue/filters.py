"""Filters as sets of bits: one for each item, packed, so that a million items take 125 KB."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from server.errors import InvalidRequest

Bits = NDArray[np.uint8]
Positions = NDArray[np.int64]

_WORD = 64
_MANY = 512  # denied items from which on a search does not fetch so many more, but has a bit for each item


@dataclass(frozen=True, slots=True)
class AttributeValues:
    """An attribute and values."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Filter:
    """Conditions that hold together; empty ones do not narrow."""

    allowed: frozenset[str] = frozenset()
    denied: frozenset[str] = frozenset()
    any_of: tuple[AttributeValues, ...] = ()
    all_of: tuple[AttributeValues, ...] = ()
    none_of: tuple[AttributeValues, ...] = ()


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
        if self.bits is None:
            if not len(self.denied):
                return np.ones(len(positions), dtype=np.bool_)
            places = np.minimum(np.searchsorted(self.denied, positions), len(self.denied) - 1)
            is_free: NDArray[np.bool_] = self.denied[places] != positions
            return is_free
        set_bits: NDArray[np.bool_] = (self.bits[positions >> 3] >> (positions & 7) & 1).astype(np.bool_)
        return set_bits

    def positions(self) -> Positions:
        """All of them, ascending."""
        if self.bits is None:
            return np.delete(np.arange(self.items), self.denied)
        return np.flatnonzero(np.unpackbits(self.bits, bitorder="little", count=self.items).view(np.bool_))


@dataclass(frozen=True, slots=True)
class _Value:
    """The items of a value: their bits if they are many, else their positions."""

    places: NDArray[np.int32]
    bits: Bits | None = None

    @property
    def size_bytes(self) -> int:
        return self.places.nbytes if self.bits is None else self.bits.nbytes


_NOTHING = _Value(np.empty(0, dtype=np.int32))


class Attributes:
    """For each value of each attribute its items, as bits where they are many and as positions where they are few.

    So a value takes at most four bytes for each of its items, however many values there are.
    """

    def __init__(self, rows: Iterable[Mapping[str, Sequence[str]]]) -> None:
        found: dict[str, dict[str, array[int]]] = {}
        self._items = 0
        for position, row in enumerate(rows):
            self._items += 1
            for name, values in row.items():
                of = found.setdefault(name, {})
                for value in values:
                    of.setdefault(value, array("i")).append(position)
        self._full = self._pack([np.arange(self._items)])
        self._of = {
            name: {value: self._keep(np.array(places, dtype=np.int32)) for value, places in values.items()}
            for name, values in found.items()
        }

    @property
    def size_bytes(self) -> int:
        """What the values take."""
        return sum(value.size_bytes for values in self._of.values() for value in values.values())

    def allow(self, conditions: Filter, chosen: Iterable[int], denied: Iterable[int]) -> Allowed:
        """The items that hold every condition.

        Args:
            conditions: of which ids are looked up already.
            chosen: positions of the ids that are allowed, if it names any.
            denied: positions that are not allowed, in any order and maybe twice.

        Raises:
            InvalidRequest: an attribute is named that no item has.
        """
        out = np.array(sorted(set(denied)), dtype=np.int64)  # a few: faster than numpy
        bits = self._conditions(conditions)
        if conditions.allowed:
            only = self._pack([np.fromiter(chosen, dtype=np.int64)])
            bits = only if bits is None else bits & only
        if bits is None and len(out) <= _MANY:
            return Allowed(self._items, self._items - len(out), None, out, len(out))
        held = self._full if bits is None else bits
        bits = held & ~self._pack([out])
        count = _count(bits)
        return Allowed(self._items, count, bits, out[:0], _count(held) - count if len(out) else 0)

    def unknown_values(self, conditions: Filter) -> list[str]:
        """Values of known attributes that no item has, as "NAME=VALUE", each once, in the order of the conditions."""
        named = [
            f"{condition.name}={value}"
            for condition in (*conditions.any_of, *conditions.all_of, *conditions.none_of)
            for value in condition.values
            if value not in self._of.get(condition.name, ())
        ]
        return list(dict.fromkeys(named))

    def _conditions(self, conditions: Filter) -> Bits | None:
        """The bits of all conditions on attributes; None if there are none."""
        bits: Bits | None = None
        for n, condition in enumerate(conditions.any_of):
            some = self._any(self._values(condition, f"filter.any_of[{n}].name"))
            bits = some if bits is None else bits & some
        for n, condition in enumerate(conditions.all_of):
            for kept in self._values(condition, f"filter.all_of[{n}].name"):
                every = self._any([kept])
                bits = every if bits is None else bits & every
        for n, condition in enumerate(conditions.none_of):
            others = self._full & ~self._any(self._values(condition, f"filter.none_of[{n}].name"))
            bits = others if bits is None else bits & others
        return bits

    def _values(self, condition: AttributeValues, field: str) -> list[_Value]:
        values = self._of.get(condition.name)
        if values is None:
            known = ", ".join(sorted(self._of))
            raise InvalidRequest(field, "unknown attribute", f" {condition.name!r}; known: {known}")
        return [values.get(value, _NOTHING) for value in condition.values]

    def _any(self, kept: Sequence[_Value]) -> Bits:
        bits = self._pack([some.places for some in kept if some.bits is None])
        for some in kept:
            if some.bits is not None:
                bits |= some.bits
        return bits

    def _keep(self, places: NDArray[np.int32]) -> _Value:
        is_dense = places.nbytes > self._full.nbytes
        return _Value(places[:0], self._pack([places])) if is_dense else _Value(places)

    def _pack(self, places: Sequence[NDArray[np.int32] | Positions]) -> Bits:
        """Bits of positions, padded with zeros to whole words."""
        flags = np.zeros(-(-self._items // _WORD) * _WORD, dtype=np.bool_)
        for some in places:
            flags[some] = True
        return np.packbits(flags, bitorder="little")


def _count(bits: Bits) -> int:
    return int(np.bitwise_count(bits.view(np.uint64)).sum())
