"""Filters: conditions of a request, and which items of the catalogue hold them.

The bits of a filter's conditions are cached: they are the same for every request that sends the same conditions. What
belongs to one request, such as the items that the user has seen, is taken out of a copy.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from swiftrec.server.catalogue.exact import (
    WORD_BITS,
    Allowed,
    Bits,
    all_but,
    ascending,
    count_bits,
    has_bit,
    is_among,
    pack,
)
from swiftrec.server.catalogue.lru import LruCache
from swiftrec.server.errors import InvalidRequest

_CACHE_BYTES = 16 * 2**20
_ENTRY_BYTES, _CONDITION_BYTES, _VALUE_BYTES = 400, 200, 8  # of a cached filter beside its bits and its texts

# What work costs beside reading words one after the other, in such words; measured, and rough on purpose.
_SCATTER_WORDS = 8  # a position: it touches a cache line, which has 8 words
_LOOKUP_WORDS = 1_024  # an id or a value: a dictionary's look-up
_STEP_WORDS = 16_384  # a list of items, or the union of some: a few calls of numpy


@dataclass(frozen=True, slots=True)
class AttributeValues:
    """An attribute and values, each of which is kept once."""

    name: str
    values: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(dict.fromkeys(self.values)))


_Conditions: TypeAlias = "tuple[tuple[AttributeValues, ...], tuple[AttributeValues, ...], tuple[AttributeValues, ...]]"


@dataclass(frozen=True, slots=True)
class Filter:
    """Conditions that hold together; empty ones do not narrow. `is_empty`: it has no condition."""

    allowed: frozenset[str] = frozenset()
    denied: frozenset[str] = frozenset()
    any_of: tuple[AttributeValues, ...] = ()
    all_of: tuple[AttributeValues, ...] = ()
    none_of: tuple[AttributeValues, ...] = ()
    is_empty: bool = field(init=False, repr=False, compare=False)  # every request asks several times

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_empty", not (self.allowed or self.denied or any(self.on_attributes)))

    @property
    def on_attributes(self) -> _Conditions:
        """The conditions on attributes: they are the same items for every user."""
        return self.any_of, self.all_of, self.none_of


class _Resolved(NamedTuple):
    """What conditions on attributes allow: read-only bits, how many are set, and the values that no item has."""

    bits: Bits
    items: int
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PostingList:
    """The items of a value: `bits` if they are many, else their positions, ascending.

    Args:
        positions: int32 [items of the value], empty if there are bits.
        count: how many items have the value.
        bits: a bit for each item of the catalogue, or None.
    """

    positions: NDArray[np.int32]
    count: int
    bits: Bits | None = None

    def contains(self, positions: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Whether the item at each position has the value."""
        return is_among(positions, self.positions) if self.bits is None else has_bit(positions, self.bits)


_NO_ITEMS = PostingList(np.empty(0, dtype=np.int32), 0)


class _Plan(NamedTuple):
    """The posting lists of a filter: an item is in all `required`, in one list of each union, in none `excluded`."""

    required: list[PostingList]
    unions: list[list[PostingList]]
    excluded: list[PostingList]


class AttributeIndex:
    """The posting list of each value of each attribute; a list takes at most four bytes for each of its items.

    Threads may share it: only the cache changes, and it has a lock.

    Args:
        rows: of each item in the catalogue's order, its attributes with their values.
        cache_bytes: bound of the cached filters.
    """

    def __init__(self, rows: Iterable[Mapping[str, Sequence[str]]], cache_bytes: int = _CACHE_BYTES) -> None:
        found: dict[str, dict[str, array[int]]] = {}
        self._items = self._max_values = 0
        for position, row in enumerate(rows):
            self._items += 1
            self._max_values = max(self._max_values, sum(map(len, row.values())))
            for name, values in row.items():
                lists = found.setdefault(name, {})
                for value in values:
                    lists.setdefault(value, array("i")).append(position)
        self._words = -(-self._items // WORD_BITS)
        self._all = _Resolved(_read_only(pack(np.arange(self._items), self._items)), self._items)
        self._lists = {
            name: {value: self._posting_list(np.array(places, dtype=np.int32)) for value, places in values.items()}
            for name, values in found.items()
        }
        self._cache: LruCache[_Conditions, _Resolved] = LruCache(cache_bytes)

    @property
    def cached_bytes(self) -> int:
        """What the cached filters take."""
        return self._cache.size_bytes

    def check(self, conditions: Filter) -> None:
        """Check that the catalogue has every attribute that the filter names.

        Raises:
            InvalidRequest: names the first condition whose attribute no item has.
        """
        for name, listed in zip(("any_of", "all_of", "none_of"), conditions.on_attributes, strict=True):
            for n, condition in enumerate(listed):
                if condition.name not in self._lists:
                    quote = f" {condition.name!r}; known: {', '.join(sorted(self._lists))}"
                    raise InvalidRequest(f"filter.{name}[{n}].name", "unknown attribute", quote)

    def work(self, conditions: Filter) -> float:
        """Predict what resolving a filter costs, in 64-bit words that are read one after the other.

        Attributes that no item has cost nothing. Conditions that are cached cost nothing; ids are looked up each time.
        """
        ids = len(conditions.allowed) + len(conditions.denied)
        words = float(_LOOKUP_WORDS * ids + (self._pack_words(ids) if ids else 0))
        if not any(conditions.on_attributes) or conditions.on_attributes in self._cache:
            return words
        plan = self._plan(conditions)
        unions = [*plan.unions, plan.excluded]
        values = len(plan.required) + sum(map(len, unions))
        return (
            words + _LOOKUP_WORDS * values + self._required_words(plan.required) + sum(map(self._union_words, unions))
        )

    def allow(self, conditions: Filter, chosen: Iterable[int], denied: Iterable[int]) -> Allowed:
        """The items that hold every condition.

        Args:
            conditions: of which ids are looked up already.
            chosen: positions of the ids that are allowed, if it names any.
            denied: positions that are not allowed, in any order and maybe twice.

        Raises:
            InvalidRequest: an attribute is named that no item has.
        """
        has_conditions = any(conditions.on_attributes)
        if not has_conditions and not conditions.allowed:
            return all_but(self._items, denied)
        bits, count, _ = self._resolve(conditions) if has_conditions else self._all
        if conditions.allowed:
            bits = bits & pack(np.fromiter(chosen, dtype=np.int64), self._items)
            count = count_bits(bits)
        missing = ascending(denied)
        missing = missing[has_bit(missing, bits)]
        if len(missing):
            bits = bits & ~pack(missing, self._items)
        return Allowed(self._items, count - len(missing), bits, missing[:0], len(missing))

    def unknown_values(self, conditions: Filter) -> list[str]:
        """Values that no item has, as "NAME=VALUE", each once, in the order of the conditions.

        Cached with the bits; else a look-up for each value, of which a call has `--max-filter-values` at most.
        """
        resolved = self._cache.get(conditions.on_attributes)
        return [*(self._unknown_values(conditions) if resolved is None else resolved.unknown)]

    def _unknown_values(self, conditions: Filter) -> tuple[str, ...]:
        found = dict[str, None]()
        for condition in chain(*conditions.on_attributes):
            lists = self._lists.get(condition.name, {})
            found |= {f"{condition.name}={value}": None for value in condition.values if value not in lists}
        return tuple(found)

    def _resolve(self, conditions: Filter) -> _Resolved:
        """What the conditions on attributes allow, from the cache if it is there."""
        resolved = self._cache.get(conditions.on_attributes)
        if resolved is None:
            self.check(conditions)
            bits = _read_only(self._bits(self._plan(conditions)))
            resolved = _Resolved(bits, count_bits(bits), self._unknown_values(conditions))
            self._cache.put(conditions.on_attributes, resolved, bits.nbytes + _cached_bytes(conditions, resolved))
        return resolved

    def _plan(self, conditions: Filter) -> _Plan:
        unions = [self._named([condition]) for condition in dict.fromkeys(conditions.any_of)]
        return _Plan(self._named(conditions.all_of), unions, self._named(conditions.none_of))

    def _named(self, conditions: Iterable[AttributeValues]) -> list[PostingList]:
        """The posting lists of the values of all conditions, each value once."""
        named = dict.fromkeys((condition.name, value) for condition in conditions for value in condition.values)
        return [self._lists.get(name, {}).get(value, _NO_ITEMS) for name, value in named]

    def _bits(self, plan: _Plan) -> Bits:
        bits = self._intersection(plan.required) if plan.required else self._all.bits.copy()
        for lists in plan.unions:
            bits &= self._union(lists)
        if plan.excluded:
            bits &= ~self._union(plan.excluded)
        return bits

    def _intersection(self, lists: list[PostingList]) -> Bits:
        """The items that are in every one of the lists, a new array.

        An item has at most `_max_values` values, so longer conditions need no work.
        """
        if len(lists) > self._max_values:
            return np.zeros_like(self._all.bits)
        shortest, *others = sorted(lists, key=lambda one: one.count)
        if shortest.bits is None:
            positions = shortest.positions
            for other in others:
                positions = positions[other.contains(positions)]
            return pack(positions, self._items)
        bits = shortest.bits.copy()
        for other in others:  # which have bits, too, since they are as long
            bits &= other.bits if other.bits is not None else bits
        return bits

    def _union(self, lists: list[PostingList]) -> Bits:
        """The items that are in at least one of the lists, a new array."""
        bits = pack(np.concatenate([one.positions for one in (_NO_ITEMS, *lists)]), self._items)
        for one in lists:
            if one.bits is not None:
                bits |= one.bits
        return bits

    def _required_words(self, lists: list[PostingList]) -> int:
        """The work of `_intersection`, or of the copy in its place."""
        if not lists or len(lists) > self._max_values:
            return self._words
        shortest = min(lists, key=lambda one: one.count)
        if shortest.bits is not None:
            return len(lists) * (_STEP_WORDS + self._words)
        return len(lists) * (_STEP_WORDS + _SCATTER_WORDS * shortest.count) + self._pack_words(shortest.count)

    def _union_words(self, lists: list[PostingList]) -> int:
        """The work of `_union`, and of what is made of its result."""
        if not lists:
            return 0
        dense = sum(one.bits is not None for one in lists)
        return self._pack_words(sum(len(one.positions) for one in lists)) + (dense + 1) * self._words

    def _pack_words(self, positions: int) -> int:
        """The work of `pack`, which has a byte for each item at first."""
        return _STEP_WORDS + _SCATTER_WORDS * positions + (WORD_BITS // 8) * self._words

    def _posting_list(self, positions: NDArray[np.int32]) -> PostingList:
        if positions.nbytes <= self._all.bits.nbytes:
            return PostingList(positions, len(positions))
        return PostingList(positions[:0], len(positions), pack(positions, self._items))


def _cached_bytes(conditions: Filter, resolved: _Resolved) -> int:
    """What a cached filter takes beside its bits."""
    every = [*chain(*conditions.on_attributes)]
    texts = chain(resolved.unknown, *((one.name, *one.values) for one in every))
    return _ENTRY_BYTES + _CONDITION_BYTES * len(every) + sum(sys.getsizeof(text) + _VALUE_BYTES for text in texts)


def _read_only(bits: Bits) -> Bits:
    bits.flags.writeable = False
    return bits
