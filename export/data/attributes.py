"""Attribute values of a catalogue: the items with each value, their number, and queries for frequent values."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

import numpy as np

from swiftrec.export.data.dataset import DatasetItem, Probe
from swiftrec.server.arrays import StoredPositions

MAX_VALUES = 60  # of one attribute; with more, a single value is too specific for a query
TAGS = "tags"  # the column that training does not use: the evaluation queries its values
_MAX_COUNTED = 10_000  # values of one attribute; with more, they identify items rather than kinds of items
_MIN_PROBE_ITEMS = 10
_MAX_PROBES = 32

ItemsByValue = dict[str, StoredPositions]
"""Attribute value in lower case -> positions of the items that have it, ascending."""


class AttributeCounts:
    """Attribute -> value -> number of items; for an attribute with too many values only that fact."""

    def __init__(self) -> None:
        self._counts: dict[str, dict[str, int] | None] = {}

    def add(self, attributes: dict[str, list[str]]) -> None:
        """Count the attributes of one item."""
        for name, values in attributes.items():
            counts = self._counts.setdefault(name, {})
            if counts is None:
                continue
            for value in values:
                counts[value] = counts.get(value, 0) + 1
            if len(counts) > _MAX_COUNTED:
                self._counts[name] = None

    @property
    def sizes(self) -> dict[str, int]:
        """Attribute -> number of its values; -1 for too many to count."""
        return {name: -1 if counts is None else len(counts) for name, counts in self._counts.items()}

    def probes(self) -> list[Probe]:
        """One probe for each value that enough items have, the most frequent values first."""
        counts = {(name, value): n for name, values in self._counts.items() for value, n in (values or {}).items()}
        frequent = sorted((key for key, n in counts.items() if n >= _MIN_PROBE_ITEMS), key=lambda k: (-counts[k], k))
        return [Probe(f"a good {value.lower()}", name, value) for name, value in frequent[:_MAX_PROBES]]


def index_attributes(items: Iterable[DatasetItem]) -> ItemsByValue:
    """The items with each attribute value, 4 bytes for each.

    Attributes with more than `MAX_VALUES` values are left out, and so is the column `TAGS`.
    """
    by_name: dict[str, dict[str, array[int]]] = {}
    for n, item in enumerate(items):
        for name, values in item.attributes.items():
            if name == TAGS:
                continue
            positions = by_name.setdefault(name, {})
            if len(positions) <= MAX_VALUES:
                for value in values:
                    positions.setdefault(value.lower(), array("i")).append(n)
    index: ItemsByValue = {}
    for positions in by_name.values():
        if len(positions) <= MAX_VALUES:
            for value, with_value in positions.items():
                added = np.frombuffer(with_value, np.int32)
                index[value] = np.union1d(index.get(value, added), added)
    return index


def items_with(index: ItemsByValue, required: Iterable[str], excluded: Iterable[str] = ()) -> StoredPositions:
    """Positions of the items with every value in `required` and none in `excluded`, ascending."""
    positions, *others = (index[value] for value in required)
    for other in others:
        positions = np.intersect1d(positions, other, assume_unique=True)
    for value in excluded:
        positions = np.setdiff1d(positions, index[value], assume_unique=True)
    return positions
