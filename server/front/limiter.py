"""A limit on the calls that run at the same time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from server.errors import Overloaded

_MIN_RETRY_S = 0.01


class ConcurrencyLimiter:
    """How many calls may run at once.

    Args:
        limit: calls.
        wait_s: predicted seconds after which a retry makes sense.

    Attributes:
        limit: as given.
    """

    def __init__(self, limit: int, wait_s: Callable[[], float] = lambda: 0.0) -> None:
        self.limit, self._wait_s = limit, wait_s
        self._places = deque(range(limit))  # pop and append are atomic

    @property
    def in_use(self) -> int:
        """How many run."""
        return self.limit - len(self._places)

    def acquire(self) -> int:
        """Take a place.

        Raises:
            Overloaded: there is none.
        """
        try:
            return self._places.pop()
        except IndexError:
            raise Overloaded(max(_MIN_RETRY_S, self._wait_s())) from None

    def release(self, place: int) -> None:
        """Give the place back."""
        self._places.append(place)
