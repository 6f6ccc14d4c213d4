"""Which items anybody took in training, and how often: one definition for training, evaluation and what is served.

A ranker learns of an item only from the histories that it is trained on. An item that none of these has counts as new
wherever items are scored: its vector comes from its text, it is raised as new items are, and its
popularity is 0, even if a user with a single event took it or it validates.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Histories = Sequence[NDArray[np.int64]]


def events_of(histories: Histories, items: int) -> NDArray[np.int64]:
    """Number of events of each item, [items]."""
    return np.bincount(np.concatenate([np.empty(0, np.int64), *histories]), minlength=items)


def is_taken(trained: Histories, items: int) -> NDArray[np.bool_]:
    """Whether each item is in a history that training reads, bool [items]."""
    return events_of(trained, items) > 0


def popularity(histories: Histories, trained: Histories, items: int) -> NDArray[np.int64]:
    """Number of events in `histories` of each item that is in a `trained` history; 0 for the others, [items]."""
    return np.where(is_taken(trained, items), events_of(histories, items), 0)
