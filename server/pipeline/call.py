"""One call: its deadline, what is still to come, and the work that is taken back when nobody waits any more.

What answers a call is a coroutine that awaits the call wherever it needs what the batchers are working on. Nothing here
is asyncio's: a `Desk` (server/api/desk.py) resumes the coroutine when the call is through, so that waiting costs no
thread; `finish` waits in the caller's own thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

from server.errors import Cancelled, DeadlineExceeded

T = TypeVar("T")
_LATE = "the deadline passed before the answer was ready"


class Call:
    """The pipeline says how many answers are to come (`expect`) and that one is there (`arrived`); the edge awaits all.

    Args:
        deadline: on the clock, in seconds.
        clock: seconds, monotonic.
    """

    __slots__ = ("_clock", "_is_cancelled", "_is_late", "_lock", "_missing", "_resume", "_takes_back", "deadline")

    def __init__(self, deadline: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.deadline, self._clock = deadline, clock
        self._lock = threading.Lock()
        self._missing = 0
        self._resume: Callable[[], object] | None = None
        self._takes_back: list[Callable[[], object]] = []
        self._is_cancelled = self._is_late = False

    @property
    def is_cancelled(self) -> bool:
        """Whether nobody waits any more."""
        return self._is_cancelled

    def remaining_s(self) -> float:
        """Seconds until the deadline."""
        return max(0.0, self.deadline - self._clock())

    def expect(self, answers: int) -> None:
        """So many answers are to come."""
        with self._lock:
            self._missing += answers

    def arrived(self) -> None:
        """One of them is there."""
        with self._lock:
            self._missing -= 1
            if self._missing or self._is_cancelled:
                return
            self._takes_back = []
            resume, self._resume = self._resume, None
        if resume:
            resume()

    def on_cancel(self, take_back: Callable[[], object]) -> None:
        """Call `take_back` when nobody waits any more; at once if that is so already."""
        with self._lock:
            if not self._is_cancelled:
                if self._missing:
                    self._takes_back.append(take_back)
                return
        take_back()

    def then(self, resume: Callable[[], object]) -> bool:
        """Have `resume` called once, by any thread, when every answer is there or nobody waits any more.

        Returns:
            False if that is so already; `resume` is then never called.
        """
        with self._lock:
            if self._is_cancelled or not self._missing:
                return False
            self._resume = resume
            return True

    def cancel(self) -> None:
        """Nobody waits any more: take back all work that has not started."""
        with self._lock:
            if self._is_cancelled:
                return
            self._is_cancelled = True
            takes_back, self._takes_back = self._takes_back, []
            resume, self._resume = self._resume, None
        for take_back in takes_back:
            take_back()
        if resume:
            resume()

    def settle(self) -> None:
        """Wait in this thread until every answer is there, nobody waits any more, or the deadline has passed."""
        gate = threading.Lock()
        gate.acquire()
        if self.then(gate.release) and not gate.acquire(timeout=self.remaining_s()):
            self._is_late = True
            self.cancel()

    def check(self) -> None:
        """Nothing if every answer is there.

        Raises:
            DeadlineExceeded: the answers were not there in time; what had not started never runs.
            Cancelled: the caller has gone.
        """
        if self._is_cancelled:
            if (
                self._is_late or self._clock() >= self.deadline
            ):  # gRPC says that the client has gone when its deadline has passed
                raise DeadlineExceeded(_LATE)
            raise Cancelled("the caller has gone")

    def __await__(self) -> Generator[Call, None, None]:
        """Let whoever drives the coroutine wait; raises as `check` does."""
        yield self
        self.check()


def finish(work: Coroutine[Call, Any, T]) -> T:
    """The result of `work`, waited for in this thread."""
    try:
        while True:
            work.send(None).settle()
    except StopIteration as end:
        result: T = end.value
        return result
