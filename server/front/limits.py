"""Limits of the front: running calls, calls without a request, and responses that clients have not read."""

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

_MAX_CONTROL_CALLS = 16  # each holds a thread
_MAX_CHANGES = 8  # loads and unloads; each holds a thread
_MAX_PROBE_CALLS = 64
_MIN_RETRY_S = 0.01
_RETRY_S = 1.0  # if the wait cannot be predicted
_STOPPING = "the server is stopping: send the call to another server, or again later"
_TOO_MANY_WAITING = "Exceeds maximum queue size: too many calls wait for their request"
_UNSENT = "Exceeds maximum queue size: too many bytes of earlier responses have not been read by their clients"


class ConcurrencyLimiter:
    """Limits the number of calls that run at once.

    Args:
        limit: number of calls.
        wait_s: predicts after how many seconds a retry may succeed.

    Attributes:
        limit: number of calls.
    """

    def __init__(self, limit: int, wait_s: Callable[[], float] = lambda: _RETRY_S) -> None:
        self.limit, self._wait_s = limit, wait_s
        self._slots = deque(range(limit))  # pop and append are atomic

    @property
    def in_use(self) -> int:
        """Number of calls that run."""
        return self.limit - len(self._slots)

    def acquire(self) -> int:
        """Take a slot.

        Raises:
            Overloaded: there is none.
        """
        try:
            return self._slots.pop()
        except IndexError:
            raise Overloaded(max(_MIN_RETRY_S, self._wait_s())) from None

    def release(self, slot: int) -> None:
        """Return the slot."""
        self._slots.append(slot)


@dataclass(frozen=True, slots=True)
class Limiters:
    """The limiters of each kind of call. Health probes have their own, so other calls cannot block them.

    Args:
        calls: unary calls to the worker.
        control: calls of other methods, each of which holds a thread.
        changes: loads and unloads of bundles, each of which holds a thread, possibly for minutes.
        streams: streams to the worker, each of which holds two threads from its first message on.
        probes: health checks; they do not block, so a saturated server still reports its health.
        watches: health watches, each of which holds a thread.
        open_watches: health watches without a token, if tokens are required.
    """

    calls: ConcurrencyLimiter
    control: ConcurrencyLimiter
    changes: ConcurrencyLimiter
    streams: ConcurrencyLimiter
    probes: ConcurrencyLimiter
    watches: ConcurrencyLimiter
    open_watches: ConcurrencyLimiter

    @classmethod
    def of(cls, max_calls: int, wait_s: Callable[[], float]) -> Limiters:
        """The limiters of a server with at most `max_calls` unary calls; `wait_s` predicts their wait."""
        return cls(
            calls=ConcurrencyLimiter(max_calls, wait_s),
            control=ConcurrencyLimiter(_MAX_CONTROL_CALLS),
            changes=ConcurrencyLimiter(_MAX_CHANGES),
            streams=ConcurrencyLimiter(max(1, max_calls // 4)),
            probes=ConcurrencyLimiter(_MAX_PROBE_CALLS),
            watches=ConcurrencyLimiter(2 * _MAX_PROBE_CALLS),
            open_watches=ConcurrencyLimiter(2 * min(_MAX_PROBE_CALLS, max(1, max_calls // 8))),
        )


class BoundedCalls:
    """Limits calls by aborting the oldest if there are too many. Only one thread may add and remove calls.

    Args:
        limit: number of calls.
        reason: error message for the aborted call.
    """

    def __init__(self, limit: int, reason: str) -> None:
        self._limit, self._reason = limit, reason
        self._calls: dict[Call, Method] = {}  # in the order of arrival

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, call: Call, method: Method) -> None:
        """Add a call."""
        self._calls[call] = method
        if len(self._calls) > self._limit:
            oldest = next(iter(self._calls))
            self._calls.pop(oldest).abort(oldest, Overloaded(_RETRY_S, self._reason))

    def remove(self, call: Call) -> None:
        """Remove a call, if it was added."""
        self._calls.pop(call, None)


class Arrivals(BoundedCalls):
    """Limits calls whose request has not arrived.

    A request normally follows its call immediately. If too many calls have none, the oldest is aborted, so that clients
    that never send requests do not block others.

    Args:
        limit: number of calls that may wait for their request.
        clock: seconds, monotonic.
    """

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(limit, _TOO_MANY_WAITING)
        self._clock = clock
        self._last = clock()
        self._held: queue.SimpleQueue[Callable[[SwiftrecError], object]] = queue.SimpleQueue()
        self._is_closed = self._is_aborting = False

    @property
    def quiet_s(self) -> float:
        """Seconds since the last call arrived."""
        return self._clock() - self._last

    def close(self) -> None:
        """Hold new calls until `abort_held`, so that their clients do not retry meanwhile."""
        self._is_closed = True

    def abort_held(self) -> None:
        """Abort the calls that were held since `close`, and every later one."""
        self._is_aborting = True
        with contextlib.suppress(queue.Empty):
            while True:
                self._held.get_nowait()(ShuttingDown(_STOPPING))

    def admit(self, abort: Callable[[SwiftrecError], object]) -> bool:
        """Admit a new call; False after `close`: then `abort` is called later, with the reason."""
        self._last = self._clock()
        if not self._is_closed:
            return True
        self._held.put(abort)
        if self._is_aborting:
            self.abort_held()
        return False


class OpenCalls:
    """The calls that have not ended. A server that stops waits for them, and finally aborts them."""

    def __init__(self) -> None:
        self._methods: dict[Call, Method] = {}  # adding and removing are atomic
        self._changed = threading.Condition()
        self._is_waiting = self._is_wait_ended = False

    def add(self, call: Call, method: Method) -> None:
        """A call has arrived."""
        self._methods[call] = method

    def remove(self, call: Call) -> None:
        """A call has ended."""
        self._methods.pop(call, None)
        if self._is_waiting and not self._methods:
            self._notify()

    def wait(self, timeout_s: float) -> None:
        """Wait until all calls have ended, the timeout has passed, or `end_wait` is called."""
        with self._changed:
            self._is_waiting = True
            self._changed.wait_for(lambda: self._is_wait_ended or not self._methods, timeout_s)

    def end_wait(self) -> None:
        """End the wait, now or when it begins."""
        self._is_wait_ended = True
        self._notify()

    def abort_all(self, error: SwiftrecError) -> None:
        """Abort every call that has no response."""
        for call, method in list(self._methods.items()):  # copying is atomic
            method.abort(call, error)

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()


class UnsentResponses:
    """Limits the responses that clients have not read, and cancels calls whose response is not read in time.

    Args:
        limit: bytes of unread responses beyond which calls are rejected.
        timeout_s: time in which a client must read a response.
        timers: schedule the checks.
        clock: seconds, monotonic; the clock of the timers.
    """

    def __init__(
        self, limit: int, timeout_s: float, timers: Timers, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit, self._timeout_s, self._timers, self._clock = limit, timeout_s, timers, clock
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._responses: dict[int, tuple[float, int, Callable[[], object]]] = {}  # in the order of their time
        self._has_timer = False
        self.bytes = 0

    def check(self) -> None:
        """Check that another call may be accepted.

        Raises:
            Overloaded: too many bytes are unread.
        """
        if self.bytes > self._limit:
            raise Overloaded(_RETRY_S, _UNSENT)

    def add(self, size: int, cancel: Callable[[], object]) -> int:
        """Add a response that was passed to gRPC; `cancel` is called on timeout. Returns a number for `remove`."""
        number = next(self._numbers)
        due = self._clock() + self._timeout_s
        with self._lock:
            self._responses[number] = due, size, cancel
            self.bytes += size
            is_first, self._has_timer = not self._has_timer, True
        if is_first:
            self._timers.schedule(due, self._cancel_expired)
        return number

    def hold(self, size: int) -> None:
        """Count a response of a stream that waits for earlier ones, until `release`; it has no timeout."""
        with self._lock:
            self.bytes += size

    def release(self, size: int) -> None:
        """Remove a response that was added by `hold`."""
        self.hold(-size)

    def remove(self, number: int) -> None:
        """Remove a response: it was read, or its call has ended."""
        with self._lock:
            _, size, _ = self._responses.pop(number, (0.0, 0, None))
            self.bytes -= size

    def _cancel_expired(self) -> None:
        """Cancel calls whose response was not read in time, and schedule the next check."""
        expired: list[Callable[[], object]] = []
        with self._lock:
            now, following = self._clock(), None
            for due, _, cancel in self._responses.values():
                if due > now:
                    following = due
                    break
                expired.append(cancel)
            self._has_timer = following is not None or bool(expired)
        for cancel in expired:
            cancel()
        if self._has_timer:
            self._timers.schedule(following or now + self._timeout_s, self._cancel_expired)
