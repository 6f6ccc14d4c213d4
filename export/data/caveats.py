"""What makes the figures of an export uncertain or worthless although its data can be read: a sentence for each."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from swiftrec.export.data.split import MIN_EVENTS

_NDCG_DEVIATION = 0.25  # of one user's NDCG@10, measured on MovieLens-100K; its mean there is .1
_NORMAL_95 = 1.96
_SURE_USERS = 500  # from which the interval is +-.02 or less
_TRAINED_EVENTS = 2  # an event and the one after it: fewer teach nothing
_MOSTLY_TIED = 0.5


def few_users(users: int) -> list[str]:
    """Where so few users test that differences are chance: with the interval to expect."""
    if not 0 < users < _SURE_USERS:
        return []
    half = _NORMAL_95 * _NDCG_DEVIATION / math.sqrt(users)
    return [
        f"only {users:,} users have enough events to test on: the 95 % interval of NDCG@10 will be about +-{half:.2g}, "
        "and smaller differences are chance"
    ]


def short_histories(events: NDArray[np.int64]) -> list[str]:
    """Where most users have too few events to test on: what happens to these.

    Args:
        events: how many events of each user count.
    """
    is_short, is_trained = events < MIN_EVENTS, events >= _TRAINED_EVENTS
    if 2 * np.count_nonzero(is_short) <= len(events):
        return []
    trained, single = events[is_short & is_trained], np.count_nonzero(is_short & ~is_trained)
    return [
        f"{np.count_nonzero(is_short):,} of {len(events):,} users have fewer than {MIN_EVENTS} events and do not test: "
        f"{trained.sum():,} events of {len(trained):,} of these users only train, and {single:,} users with a single "
        "event are left out"
    ]


def tied_times(share: float) -> list[str]:
    """Where most events share their time with another of the same user."""
    if share < _MOSTLY_TIED:
        return []
    return [
        f"{share:.0%} of the events share their timestamp with another event of the same user, and the order of the "
        "rows decides between them: if the rows are in no order, use --order none"
    ]
