"""Interactions in flat arrays, 16 bytes each, 24 with ratings, and the histories that they make."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from swiftrec.server.arrays import Mask

ScalarT = TypeVar("ScalarT", bound=np.generic)


class InteractionLog:
    """Collects interactions in the order of the file."""

    def __init__(self) -> None:
        self.users: dict[str, int] = {}
        """User id -> its number, users in the order in which they first appear."""
        self._users, self._items, self._times = array("i"), array("i"), array("d")
        self._ratings = array("d")  # of every interaction, NaN for one without, or empty

    def add(self, user: str, item: int, seconds: float, rating: float | None = None) -> None:
        """Append one; `item` is a position in the catalogue. Either all interactions have a rating or none has."""
        self._users.append(self.users.setdefault(user, len(self.users)))
        self._items.append(item)
        self._times.append(seconds)
        if rating is not None:
            self._ratings.append(rating)

    def sort(self) -> Interactions:
        """All interactions by user and time; the log is empty afterwards."""
        users, times = np.frombuffer(self._users, np.int32), np.frombuffer(self._times, np.float64)
        order = np.lexsort((times, users))  # stable: with equal times the order of the file stays
        times = times[order]
        self._times = array("d")  # freed before the next array is copied
        users = users[order]
        self._users = array("i")
        items = np.frombuffer(self._items, np.int32)[order]
        self._items = array("i")
        ratings = np.frombuffer(self._ratings, np.float64)[order] if self._ratings else np.empty(0)
        self._ratings = array("d")
        return Interactions(list(self.users), users, items, times, ratings)


@dataclass(frozen=True)
class Interactions:
    """Interactions sorted by user, then by time; with equal times in the order of the file.

    Args:
        user_ids: ids of the users in the order in which they first appear.
        users: positions in `user_ids`, int32 [interactions].
        items: positions in the catalogue, int32 [interactions].
        times: seconds, float64 [interactions].
        all_ratings: float64 [interactions], NaN for an interaction without one; empty if none has a rating.
    """

    user_ids: list[str]
    users: NDArray[np.int32]
    items: NDArray[np.int32]
    times: NDArray[np.float64]
    all_ratings: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Number of interactions of each user, [users]."""
        return np.bincount(self.users, minlength=len(self.user_ids))

    @cached_property
    def distinct_items(self) -> NDArray[np.int64]:
        """Number of distinct items of each user, [users]."""
        size = int(self.items.max(initial=0)) + 1
        pairs = self.users.astype(np.int64) * size
        pairs += self.items
        pairs.sort()
        is_first = np.ones(len(pairs), dtype=bool)
        np.not_equal(pairs[1:], pairs[:-1], out=is_first[1:])
        return np.bincount(pairs[is_first] // size, minlength=len(self.user_ids))

    @property
    def repeated(self) -> int:
        """Number of interactions whose user has an earlier one with the same item."""
        return len(self) - int(self.distinct_items.sum())

    @property
    def used_items(self) -> int:
        """Number of distinct items."""
        return int(np.count_nonzero(np.bincount(self.items)))

    @cached_property
    def tied_share(self) -> float:
        """Share of interactions at whose time the same user has an interaction with another item."""
        if not len(self):
            return 0.0
        starts = np.flatnonzero(np.concatenate([[True], ~self._is_same_time | ~self._is_same_user]))
        is_tied = np.minimum.reduceat(self.items, starts) < np.maximum.reduceat(self.items, starts)
        return float(np.diff(np.append(starts, len(self)))[is_tied].sum() / len(self))

    @property
    def has_order(self) -> bool:
        """Whether some user has interactions at different times; also true if no user has two interactions."""
        return not self._is_same_user.any() or bool((self._is_same_user & ~self._is_same_time).any())

    @property
    def _is_same_user(self) -> Mask:
        return np.equal(self.users[1:], self.users[:-1])

    @property
    def _is_same_time(self) -> Mask:
        return np.equal(self.times[1:], self.times[:-1])

    @property
    def rating_range(self) -> tuple[float, float] | None:
        """The lowest and the highest rating; None if there are none."""
        known = self._known_ratings
        return (float(known.min()), float(known.max())) if len(known) else None

    @property
    def unrated(self) -> int:
        """Number of interactions without a rating if others have one."""
        return len(self.all_ratings) - len(self._known_ratings)

    @property
    def _known_ratings(self) -> NDArray[np.float64]:
        return self.all_ratings[~np.isnan(self.all_ratings)]

    def histories(self) -> list[NDArray[np.int64]]:
        """Each user's items, oldest first; empty if there are no interactions."""
        return self._by_user(self.items.astype(np.int64))

    def history_times(self) -> list[NDArray[np.float64]]:
        """The seconds of the same interactions."""
        return self._by_user(self.times)

    def history_ratings(self) -> list[NDArray[np.float64]]:
        """The ratings of the same interactions; empty if there are none."""
        return self._by_user(self.all_ratings) if len(self.all_ratings) else []

    def _by_user(self, values: NDArray[ScalarT]) -> list[NDArray[ScalarT]]:
        return np.split(values, np.cumsum(self.lengths)[:-1]) if len(self) else []
