"""A stall: for some time nothing is answered. What a load generator must not hide."""

from __future__ import annotations

import time
from collections.abc import Callable


class Stall:
    """Holds every call that comes within it until its end.

    Args:
        after_s: seconds from the first call to its beginning.
        length_s: its length; 0: there is none.
        clock: seconds, monotonic.
        sleep: seconds.
    """

    def __init__(
        self,
        after_s: float,
        length_s: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._after_s, self._length_s, self._clock, self._sleep = after_s, length_s, clock, sleep
        self._first: float | None = None

    def wait(self) -> None:
        """Return at once, or at the end of the stall."""
        if not self._length_s:
            return
        now = self._clock()
        if self._first is None:
            self._first = now
        begins = self._first + self._after_s
        if begins <= now < begins + self._length_s:
            self._sleep(begins + self._length_s - now)
