"""Interactions in flat arrays, 16 bytes each, 24 with ratings, and the histories that they make."""

from __future__ import annotations

from array import array

import numpy as np
from numpy.typing import NDArray


class Events:
    """Who took what when, in the order of the file."""

    def __init__(self) -> None:
        self._users, self._items, self._times = array("i"), array("i"), array("d")
        self._ratings = array("d")  # of every event, NaN for one that has none, or of none
        self._numbers: dict[str, int] = {}

    def add(self, user: str, item: int, seconds: float, rating: float | None = None) -> None:
        """Append one; `item` is a position in the catalogue. Either every event has a rating or none has."""
        self._users.append(self._numbers.setdefault(user, len(self._numbers)))
        self._items.append(item)
        self._times.append(seconds)
        if rating is not None:
            self._ratings.append(rating)

    def __len__(self) -> int:
        return len(self._items)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Events of each user, users in the order in which they first appear."""
        return np.bincount(np.frombuffer(self._users, np.int32), minlength=len(self._numbers))

    def histories(self) -> list[NDArray[np.int64]]:
        """Each user's items, oldest first; what shares its time stays in the order of the file."""
        if not len(self):
            return []
        items = np.frombuffer(self._items, np.int32)[self._in_time()].astype(np.int64)
        return np.split(items, np.cumsum(self.lengths)[:-1])

    def times(self) -> list[NDArray[np.float64]]:
        """The seconds of the same events."""
        return self._by_user(self._times)

    def ratings(self) -> list[NDArray[np.float64]]:
        """The ratings of the same events; empty where there are none."""
        return self._by_user(self._ratings)

    def rating_range(self) -> tuple[float, float] | None:
        """The lowest and the highest rating; None where there are none."""
        known = self._known_ratings()
        return (float(known.min()), float(known.max())) if len(known) else None

    def unrated(self) -> int:
        """Events without a rating where others have one."""
        return len(self._ratings) - len(self._known_ratings())

    def _known_ratings(self) -> NDArray[np.float64]:
        ratings = np.frombuffer(self._ratings, np.float64)
        return ratings[~np.isnan(ratings)]

    @property
    def users(self) -> list[str]:
        """Ids of the users, in the order of `histories`."""
        return list(self._numbers)

    def tied(self) -> float:
        """Share of events at whose time the same user has an event with another item, too."""
        if not len(self):
            return 0.0
        order = self._in_time()
        users, times = np.frombuffer(self._users, np.int32)[order], np.frombuffer(self._times, np.float64)[order]
        items = np.frombuffer(self._items, np.int32)[order]
        is_next = (users[1:] != users[:-1]) | (times[1:] != times[:-1])
        starts = np.concatenate([[0], np.flatnonzero(is_next) + 1])
        is_tied = np.minimum.reduceat(items, starts) < np.maximum.reduceat(items, starts)
        return float(np.diff(np.append(starts, len(self)))[is_tied].sum() / len(self))

    def has_order(self) -> bool:
        """Whether the times say of any two events of one user which came first; also if no user has two."""
        order = self._in_time()
        users, times = np.frombuffer(self._users, np.int32)[order], np.frombuffer(self._times, np.float64)[order]
        is_same = users[1:] == users[:-1]
        return not is_same.any() or bool((is_same & (times[1:] != times[:-1])).any())

    def different(self) -> NDArray[np.int64]:
        """Different items of each user, users in the order in which they first appear."""
        items, users = np.frombuffer(self._items, np.int32), np.frombuffer(self._users, np.int32)
        size = int(items.max(initial=0)) + 1
        pairs = np.unique(users.astype(np.int64) * size + items)
        return np.bincount(pairs // size, minlength=len(self._numbers))

    def repeated(self) -> int:
        """Events whose user has an earlier event with the same item."""
        return len(self) - int(self.different().sum())

    def used_items(self) -> int:
        """How many different items have an event."""
        return len(np.unique(np.frombuffer(self._items, np.int32)))

    def _by_user(self, values: array[float]) -> list[NDArray[np.float64]]:
        """One value for each event, in the order of `histories`."""
        if not values:
            return []
        return np.split(np.frombuffer(values, np.float64)[self._in_time()], np.cumsum(self.lengths)[:-1])

    def _in_time(self) -> NDArray[np.int64]:
        """The order by user, then time, then place in the file (the sort is stable)."""
        return np.lexsort((np.frombuffer(self._times, np.float64), np.frombuffer(self._users, np.int32)))
