"""The bounds of a front: calls that run, calls without a request, calls that have not ended, unread answers."""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from swiftrec.server.errors import Overloaded, ShuttingDown, SwiftrecError
from swiftrec.server.front.calls import Call, Method
from swiftrec.server.front.waits import Timers

_MIN_RETRY_S = 0.01
_RETRY_S = 1.0  # where nothing predicts the wait
_STOPPING = "the server is stopping: send the call to another server, or again later"
_CROWDED = "Exceeds maximum queue size: too many calls wait for their request"
_UNSENT = "Exceeds maximum queue size: too many bytes of earlier answers have not been read by their clients"


class ConcurrencyLimiter:
    """How many calls may run at once.

    Args:
        limit: calls.
        wait_s: predicted seconds after which a retry makes sense.

    Attributes:
        limit: as given.
    """

    def __init__(self, limit: int, wait_s: Callable[[], float] = lambda: _RETRY_S) -> None:
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


@dataclass(frozen=True, slots=True)
class Limiters:
    """What bounds the calls that run at once. Those of health are never taken by other calls.

    Args:
        calls: that a worker answers.
        control: of other methods, each of which holds a thread.
        changes: loads and unloads of bundles, each of which holds a thread, for minutes if need be.
        streams: each holds two threads from its first message on.
        probes: of health; they block nothing, so a saturated server still says that it is alive.
        watches: of health, each of which holds a thread.
        open_watches: the same for those without a token, where tokens are needed.
    """

    calls: ConcurrencyLimiter
    control: ConcurrencyLimiter
    changes: ConcurrencyLimiter
    streams: ConcurrencyLimiter
    probes: ConcurrencyLimiter
    watches: ConcurrencyLimiter
    open_watches: ConcurrencyLimiter


class Crowd:
    """Bounds calls by refusing the oldest when there are too many. One thread alone enters and removes calls.

    Args:
        limit: calls.
        reason: for the client of a call that is refused.
    """

    def __init__(self, limit: int, reason: str) -> None:
        self._limit, self._reason = limit, reason
        self._calls: dict[Call, Method] = {}  # in the order of arrival

    def __len__(self) -> int:
        return len(self._calls)

    def enter(self, call: Call, method: Method) -> None:
        """Count a call."""
        self._calls[call] = method
        if len(self._calls) > self._limit:
            oldest = next(iter(self._calls))
            self._calls.pop(oldest).refuse(oldest, Overloaded(_RETRY_S, self._reason))

    def leave(self, call: Call) -> None:
        """Count the call no more."""
        self._calls.pop(call, None)


class Arrivals(Crowd):
    """Bounds calls without a request.

    A request normally follows its call at once. If too many calls have none, the oldest of them is refused, so clients
    that never send requests do not block others.

    Args:
        limit: calls that may wait for their request.
        clock: seconds, monotonic.
    """

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(limit, _CROWDED)
        self._clock = clock
        self._last = clock()
        self._late: queue.SimpleQueue[Callable[[SwiftrecError], object]] = queue.SimpleQueue()
        self._is_closed = self._is_refusing = False

    @property
    def quiet_s(self) -> float:
        """Seconds since the last call arrived."""
        return self._clock() - self._last

    def close(self) -> None:
        """Hold new calls until `refuse`, so that their clients do not retry meanwhile."""
        self._is_closed = True

    def refuse(self) -> None:
        """Refuse the calls that were held since `close`, and every later one."""
        self._is_refusing = True
        with contextlib.suppress(queue.Empty):
            while True:
                self._late.get_nowait()(ShuttingDown(_STOPPING))

    def admit(self, refuse: Callable[[SwiftrecError], object]) -> bool:
        """Note a new call; False after `close`: then `refuse` is called with the reason."""
        self._last = self._clock()
        if not self._is_closed:
            return True
        self._late.put(refuse)
        if self._is_refusing:
            self.refuse()
        return False


class OpenCalls:
    """The calls that have not ended, so that a server that stops can wait for them, and refuse them at last."""

    def __init__(self) -> None:
        self._methods: dict[Call, Method] = {}  # adding and removing are atomic
        self._changed = threading.Condition()
        self._is_waiting = self._is_hurried = False

    def add(self, call: Call, method: Method) -> None:
        """A call has arrived."""
        self._methods[call] = method

    def remove(self, call: Call) -> None:
        """A call has ended."""
        self._methods.pop(call, None)
        if self._is_waiting and not self._methods:
            self._notify()

    def wait(self, timeout_s: float) -> None:
        """Wait until all calls have ended, the time is up, or `hurry` is called."""
        with self._changed:
            self._is_waiting = True
            self._changed.wait_for(lambda: self._is_hurried or not self._methods, timeout_s)

    def hurry(self) -> None:
        """End the wait, now or when it begins."""
        self._is_hurried = True
        self._notify()

    def refuse(self, error: SwiftrecError) -> None:
        """Refuse every call that has no answer."""
        for call, method in list(self._methods.items()):  # a copy, which no other thread can interrupt
            method.refuse(call, error)

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()


class Unsent:
    """Bounds answers on their way to clients; one that gRPC has and that is not taken in time is cancelled.

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
            raise Overloaded(_RETRY_S, _UNSENT)

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

    def hold(self, size: int) -> None:
        """Count an answer of a stream that waits for its turn until `release`, however long that is."""
        with self._lock:
            self.bytes += size

    def release(self, size: int) -> None:
        """Count that answer no more."""
        self.hold(-size)

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
