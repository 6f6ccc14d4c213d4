"""A limit on the calls that run at the same time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from server.errors import Overloaded


class Doors:
    """How many calls may be inside at once."""

    def __init__(self, limit: int, drain_s: Callable[[], float]) -> None:
        self._limit, self._drain_s = limit, drain_s
        self._places = deque(range(limit))  # pop and append are atomic

    @property
    def inside(self) -> int:
        """How many there are."""
        return self._limit - len(self._places)

    def enter(self) -> int:
        """Take a place.

        Raises:
            Overloaded: there is none; come back when what is inside has been answered.
        """
        try:
            return self._places.pop()
        except IndexError:
            raise Overloaded(max(0.01, self._drain_s())) from None

    def leave(self, place: int) -> None:
        """Give the place back."""
        self._places.append(place)
