"""Filters: conditions of a request, and the items that meet them.

The bits of the conditions are cached, since they are the same for all requests with the same conditions. The items of
one request, such as those that the user has seen, are removed from a copy.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np

from swiftrec.server.arrays import Mask, StoredPositions
from swiftrec.server.catalogue.exact import (
    WORD_BITS,
    Bits,
    CandidateSet,
    all_but,
    ascending,
    count_bits,
    has_bit,
    is_among,
    pack,
)
from swiftrec.server.catalogue.lru import LruCache
from swiftrec.server.domain import AttributeConditions, AttributeValues, Filter
from swiftrec.server.errors import InvalidRequest

_CACHE_BYTES = 16 * 2**20
_ENTRY_BYTES, _CONDITION_BYTES, _VALUE_BYTES = 400, 200, 8  # overhead of a cached filter, a condition and a value

# Costs in units of reading a word sequentially; rough measurements.
_SCATTER_WORDS = 8  # writing a position: touches a cache line of 8 words
_LOOKUP_WORDS = 1_024  # looking up an id or a value in a dictionary
_STEP_WORDS = 16_384  # a posting list or a union: a few calls of numpy


class _Resolved(NamedTuple):
    """Resolved conditions on attributes: read-only bits, the number set, and the values that no item has."""

    bits: Bits
    items: int
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PostingList:
    """The items with a value: `bits` if there are many, else ascending positions.

    Args:
        positions: int32 [items of the value], empty if there are bits.
        count: number of items with the value.
        bits: a bit for each item of the catalogue, or None.
    """

    positions: StoredPositions
    count: int
    bits: Bits | None = None

    def contains(self, positions: StoredPositions) -> Mask:
        """Whether the item at each position has the value."""
        return is_among(positions, self.positions) if self.bits is None else has_bit(positions, self.bits)


_NO_ITEMS = PostingList(np.empty(0, dtype=np.int32), 0)


class _Plan(NamedTuple):
    """The posting lists of a filter: items must be in all `required`, in each union, and in none `excluded`."""

    required: list[PostingList]
    unions: list[list[PostingList]]
    excluded: list[PostingList]


class AttributeIndex:
    """The posting lists of all values of all attributes; a list takes at most four bytes for each of its items.

    Threads may share it: only its cache changes, which has a lock.

    Args:
        rows: the attributes and values of each item, in the order of the catalogue.
        cache_bytes: limit of the cached filters.
    """

    def __init__(self, rows: Iterable[Mapping[str, Sequence[str]]], cache_bytes: int = _CACHE_BYTES) -> None:
        values_by_name: dict[str, dict[str, array[int]]] = {}
        self._items = self._max_values = 0
        for position, row in enumerate(rows):
            self._items += 1
            self._max_values = max(self._max_values, sum(map(len, row.values())))
            for name, values in row.items():
                lists = values_by_name.setdefault(name, {})
                for value in values:
                    lists.setdefault(value, array("i")).append(position)
        self._words = -(-self._items // WORD_BITS)
        self._all = _Resolved(_read_only(pack(np.arange(self._items), self._items)), self._items)
        self._lists = {
            name: {value: self._posting_list(np.array(places, dtype=np.int32)) for value, places in values.items()}
            for name, values in values_by_name.items()
        }
        self._cache: LruCache[AttributeConditions, _Resolved] = LruCache(cache_bytes)

    @property
    def cached_bytes(self) -> int:
        """Size of the cached filters."""
        return self._cache.size_bytes

    def check(self, conditions: Filter) -> None:
        """Check that the catalogue has every attribute that the filter names.

        Raises:
            InvalidRequest: names the first condition with an attribute that no item has.
        """
        for name, listed in zip(("any_of", "all_of", "none_of"), conditions.on_attributes, strict=True):
            for n, condition in enumerate(listed):
                if condition.name not in self._lists:
                    quote = f" {condition.name!r}; known: {', '.join(sorted(self._lists))}"
                    raise InvalidRequest(f"filter.{name}[{n}].name", "unknown attribute", quote)

    def work(self, conditions: Filter) -> float:
        """Predict the cost of resolving a filter, in 64-bit words read sequentially.

        Unknown attributes and cached conditions cost nothing; ids are looked up each time.
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

    def allow(self, conditions: Filter, chosen: Iterable[int], denied: Iterable[int]) -> CandidateSet:
        """The items that meet all conditions.

        Args:
            conditions: of the filter.
            chosen: positions of its allowed ids, if it has any.
            denied: denied positions, in any order and possibly repeated.

        Raises:
            InvalidRequest: no item has an attribute of the conditions.
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
        return CandidateSet(self._items, count - len(missing), bits, missing[:0], len(missing))

    def unknown_values(self, conditions: Filter) -> list[str]:
        """Values that no item has, as "NAME=VALUE", each once, in the order of the conditions.

        Cached with the bits; else a look-up for each value, of which a call has `--max-filter-values` at most.
        """
        resolved = self._cache.get(conditions.on_attributes)
        return [*(self._unknown_values(conditions) if resolved is None else resolved.unknown)]

    def _unknown_values(self, conditions: Filter) -> tuple[str, ...]:
        unknown = dict[str, None]()
        for condition in chain(*conditions.on_attributes):
            lists = self._lists.get(condition.name, {})
            unknown |= {f"{condition.name}={value}": None for value in condition.values if value not in lists}
        return tuple(unknown)

    def _resolve(self, conditions: Filter) -> _Resolved:
        """Resolve the conditions on attributes, using the cache."""
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
        """The items in all lists, as a new array.

        No item has more than `_max_values` values, so longer conditions are never met.
        """
        if len(lists) > self._max_values:
            return np.zeros_like(self._all.bits)
        shortest, *others = sorted(lists, key=lambda postings: postings.count)
        if shortest.bits is None:
            positions = shortest.positions
            for other in others:
                positions = positions[other.contains(positions)]
            return pack(positions, self._items)
        bits = shortest.bits.copy()
        for other in others:  # longer lists have bits too
            bits &= other.bits if other.bits is not None else bits
        return bits

    def _union(self, lists: list[PostingList]) -> Bits:
        """The items in at least one list, as a new array."""
        bits = pack(np.concatenate([postings.positions for postings in (_NO_ITEMS, *lists)]), self._items)
        for postings in lists:
            if postings.bits is not None:
                bits |= postings.bits
        return bits

    def _required_words(self, lists: list[PostingList]) -> int:
        """The cost of `_intersection`, or of the copy made instead."""
        if not lists or len(lists) > self._max_values:
            return self._words
        shortest = min(lists, key=lambda postings: postings.count)
        if shortest.bits is not None:
            return len(lists) * (_STEP_WORDS + self._words)
        return len(lists) * (_STEP_WORDS + _SCATTER_WORDS * shortest.count) + self._pack_words(shortest.count)

    def _union_words(self, lists: list[PostingList]) -> int:
        """The cost of `_union` and of using its result."""
        if not lists:
            return 0
        dense = sum(postings.bits is not None for postings in lists)
        return self._pack_words(sum(len(postings.positions) for postings in lists)) + (dense + 1) * self._words

    def _pack_words(self, positions: int) -> int:
        """The cost of `pack`, which first uses a byte for each item."""
        return _STEP_WORDS + _SCATTER_WORDS * positions + (WORD_BITS // 8) * self._words

    def _posting_list(self, positions: StoredPositions) -> PostingList:
        if positions.nbytes <= self._all.bits.nbytes:
            return PostingList(positions, len(positions))
        return PostingList(positions[:0], len(positions), pack(positions, self._items))


def _cached_bytes(conditions: Filter, resolved: _Resolved) -> int:
    """Size of a cached filter without its bits."""
    every = [*chain(*conditions.on_attributes)]
    texts = chain(resolved.unknown, *((condition.name, *condition.values) for condition in every))
    return _ENTRY_BYTES + _CONDITION_BYTES * len(every) + sum(sys.getsizeof(text) + _VALUE_BYTES for text in texts)


def _read_only(bits: Bits) -> Bits:
    bits.flags.writeable = False
    return bits
