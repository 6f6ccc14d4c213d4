"""Which items carry which attribute values, for requests that ask by them."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from swiftrec.export.data.dataset import Item

MAX_VALUES = 60  # of one attribute; beyond it a value says too little to be asked for
TAGS = "tags"  # the column that is kept from training: the evaluation asks for its values

Positions = NDArray[np.int32]
Carriers = dict[str, Positions]


def find_carriers(items: Iterable[Item]) -> Carriers:
    """Attribute value in lower case -> positions of the items that carry it, ascending, 4 bytes each.

    Attributes with more than `MAX_VALUES` values are left out, and so is the column `TAGS`.
    """
    by_name: dict[str, dict[str, array[int]]] = {}
    for n, item in enumerate(items):
        for name, values in item.attributes.items():
            if name == TAGS:
                continue
            carried = by_name.setdefault(name, {})
            if len(carried) <= MAX_VALUES:
                for value in values:
                    carried.setdefault(value.lower(), array("i")).append(n)
    carriers: Carriers = {}
    for carried in by_name.values():
        if len(carried) <= MAX_VALUES:
            for value, found in carried.items():
                positions = np.frombuffer(found, np.int32)
                carriers[value] = np.union1d(carriers.get(value, positions), positions)
    return carriers


def fulfilling(carriers: Carriers, wanted: Iterable[str], excluded: Iterable[str] = ()) -> Positions:
    """Positions of the items that carry every value of `wanted` and none of `excluded`, ascending."""
    found, *others = (carriers[value] for value in wanted)
    for other in others:
        found = np.intersect1d(found, other, assume_unique=True)
    for value in excluded:
        found = np.setdiff1d(found, carriers[value], assume_unique=True)
    return found
