"""Popularity of items in training: one definition for training, evaluation and serving.

A ranker learns about an item only from its training histories. An item in none of them is cold wherever items are
scored: its vector is made from its text, its score is raised as that of new items, and its popularity is 0, even if it
is a validation target or a user with a single interaction has it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from swiftrec.server.arrays import Mask, Positions


def interaction_counts(histories: Sequence[Positions], items: int) -> NDArray[np.int64]:
    """Number of interactions with each item, [items]."""
    return np.bincount(np.concatenate([np.empty(0, np.int64), *histories]), minlength=items)


def is_trained(trained: Sequence[Positions], items: int) -> Mask:
    """Whether each item is in a training history, bool [items]."""
    return interaction_counts(trained, items) > 0


def popularity(histories: Sequence[Positions], trained: Sequence[Positions], items: int) -> NDArray[np.int64]:
    """Number of interactions in `histories` with each item; 0 for an item in no `trained` history, [items]."""
    return np.where(is_trained(trained, items), interaction_counts(histories, items), 0)
