"""Leave-one-out in time: a user's last item tests, the one before validates, the rest trains."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.data.dataset import Dataset
from export.errors import DataError

MIN_USERS = 2
MIN_EVENTS = 4  # two to train on, one to validate, one to test


@dataclass(frozen=True, slots=True)
class Split:
    """`train[u]` are positions oldest first; `valid[u]` and `test[u]` one position each, in that order of time."""

    train: list[NDArray[np.int64]]
    valid: NDArray[np.int64]
    test: NDArray[np.int64]

    @property
    def before_test(self) -> list[NDArray[np.int64]]:
        """What is known of each user when the test item is asked for."""
        return [np.append(train, valid) for train, valid in zip(self.train, self.valid, strict=True)]


def leave_one_out(dataset: Dataset) -> Split:
    """Split every history that has at least four events; shorter ones are left out.

    Raises:
        DataError: no history is long enough.
    """
    histories = [h for h in dataset.histories if len(h) >= MIN_EVENTS]
    if len(histories) < MIN_USERS:
        raise DataError(f"at least {MIN_USERS} users with {MIN_EVENTS} interactions are needed, found {len(histories)}")
    return Split(
        train=[h[:-2] for h in histories],
        valid=np.array([h[-2] for h in histories]),
        test=np.array([h[-1] for h in histories]),
    )
