"""A tiny problem for recommenders of other libraries, and lists whose figures are known by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from swiftrec.benchmarks.quality.exchange import (
    LIST_LENGTH,
    NO_ITEM,
    HyperparameterTrial,
    ItemLists,
    LibraryLists,
    LibraryProblem,
)

ITEMS = 6
DISCOUNT = 1 / np.log2(3)  # of the second place


def positions(*items: int) -> NDArray[np.int64]:
    """Items of the catalogue."""
    return np.array(items, dtype=np.int64)


def lists_of(*rows: Sequence[int]) -> ItemLists:
    """One list for each row, filled up."""
    made = np.full((len(rows), LIST_LENGTH), NO_ITEM, dtype=np.int32)
    for row, items in zip(made, rows, strict=True):
        row[: len(items)] = items
    return made


PROBLEM = LibraryProblem(
    items=ITEMS,
    masks_history=True,
    train=[positions(0, 1), positions(2), positions(4, 5)],  # the last one is too short to be tested
    valid=positions(2, 3),
    test=[positions(0, 1, 2), positions(2, 3), positions()],
)
TARGETS = positions(4, 5, 0)
LISTS = lists_of([4, 5], [4, 5], [1])  # first, second, not found
MISSES = lists_of([3], [4], [1])


def answer(*lists: ItemLists) -> LibraryLists:
    """An answer with these lists, one for each seed from 7 on."""
    return LibraryLists(
        row="als",
        library="library 1.0",
        chosen={"factors": 32},
        trials=[HyperparameterTrial({"factors": 32}, 0.5), HyperparameterTrial({"factors": 64}, 0.25)],
        seeds=list(range(7, 7 + len(lists))),
        tune_cpu_s=12.0,
        fit_cpu_s=[1.5] * len(lists),
        lists=lists,
    )
