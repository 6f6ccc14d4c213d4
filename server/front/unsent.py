"""Answers that gRPC has and their clients have not taken yet: their bytes are bounded, and their time."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable

from server.errors import Overloaded
from server.front.timers import Timers

_RETRY_S = 1.0
_REASON = "Exceeds maximum queue size: too many bytes of earlier answers have not been read by their clients"


class Unsent:
    """Bounds answers on their way to clients; one that is not taken in time is cancelled with its call.

    Args:
        limit: bytes of answers beyond which calls are refused.
        timeout_s: how long a client may take to read an answer.
        timers: look at what is late.
        clock: seconds, monotonic; the one of the timers.
    """

    def __init__(
        self, limit: int, timeout_s: float, timers: Timers, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit, self._timeout_s, self._timers, self._clock = limit, timeout_s, timers, clock
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._answers: dict[int, tuple[float, int, Callable[[], object]]] = {}  # in the order of their time
        self._has_timer = False
        self.bytes = 0

    def check(self) -> None:
        """Whether another call may be answered.

        Raises:
            Overloaded: too many bytes wait.
        """
        if self.bytes > self._limit:
            raise Overloaded(_RETRY_S, _REASON)

    def add(self, size: int, cancel: Callable[[], object]) -> int:
        """An answer is given to gRPC; `cancel` is called if it is not taken in time. A number for `remove`."""
        number = next(self._numbers)
        due = self._clock() + self._timeout_s
        with self._lock:
            self._answers[number] = due, size, cancel
            self.bytes += size
            is_first, self._has_timer = not self._has_timer, True
        if is_first:
            self._timers.schedule(due, self._sweep)
        return number

    def remove(self, number: int) -> None:
        """The answer was taken, or its call has ended."""
        with self._lock:
            _, size, _ = self._answers.pop(number, (0.0, 0, None))
            self.bytes -= size

    def _sweep(self) -> None:
        """Cancel what is late, and look again when the next may be."""
        late: list[Callable[[], object]] = []
        with self._lock:
            now, following = self._clock(), None
            for due, _, cancel in self._answers.values():
                if due > now:
                    following = due
                    break
                late.append(cancel)
            self._has_timer = following is not None or bool(late)
        for cancel in late:
            cancel()
        if self._has_timer:
            self._timers.schedule(following or now + self._timeout_s, self._sweep)
