"""Repeated interactions: a user interacts with an item again, or a row occurs twice.

`--repeats exclude`: items of the history are not recommended, so only a user's first interaction with an item counts:
at any later one the item is already in the history. `--repeats allow`: every interaction counts, and items may be
recommended again. The setting applies to training, validation, evaluation, baselines and the bundle's default of
`exclude_history`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from swiftrec.export.data.dataset import Dataset
from swiftrec.server.arrays import Mask, Positions

Repeats = Literal["exclude", "allow"]

EXCLUDE: Repeats = "exclude"
ALLOW: Repeats = "allow"
_NOTHING: Positions = np.empty(0, dtype=np.int64)


def masked(history: Positions, repeats: Repeats) -> Positions:
    """The items that may not be recommended after `history`: all of it, or none."""
    return history if repeats == EXCLUDE else _NOTHING


def is_first(history: Positions) -> Mask:
    """Whether each interaction of one user, oldest first, is the first one with its item."""
    first = np.zeros(len(history), dtype=bool)
    first[np.unique(history, return_index=True)[1]] = True
    return first


def counted(dataset: Dataset, repeats: Repeats) -> Dataset:
    """The data set with the interactions that count: the first of each user with each item, or all of them."""
    if repeats != EXCLUDE:
        return dataset
    kept = [is_first(history) for history in dataset.histories]
    if all(first.all() for first in kept):
        return dataset
    return replace(
        dataset,
        histories=[row[first] for row, first in zip(dataset.histories, kept, strict=True)],
        times=[row[first] for row, first in zip(dataset.times, kept, strict=True)] if dataset.times else [],
        ratings=[row[first] for row, first in zip(dataset.ratings, kept, strict=True)] if dataset.ratings else [],
    )
