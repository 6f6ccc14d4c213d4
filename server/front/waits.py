"""The waits of a front, each of which ends: timers, and the exchange of one message with a worker."""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from swiftrec.server.errors import DeadlineExceeded, SwiftrecError
from swiftrec.server.front.link import Link
from swiftrec.server.telemetry.traces import Work
from swiftrec.server.ticket import Reply, Ticket

FIRST_MESSAGE_TIMEOUT_S = 10.0  # how long a call may wait for its request
_SPARE_TIMERS = 1_000  # cancelled timers that may stay in the heap beside as many as live
_LATE = "the deadline passed before the response was ready"
_log = logging.getLogger(__name__)


class Timer:
    """Calls an action at a time, unless it is cancelled before."""

    __slots__ = ("_actions", "_timers", "due")

    def __init__(self, timers: Timers, due: float, action: Callable[[], object]) -> None:
        self._timers, self.due = timers, due
        self._actions = [action]  # pop is atomic: who has the action cancels or calls it

    def __lt__(self, other: Timer) -> bool:
        return self.due < other.due

    @property
    def is_pending(self) -> bool:
        """Whether it may still fire."""
        return bool(self._actions)

    def cancel(self) -> bool:
        """Never call the action; False if that has begun."""
        is_first = self.take() is not None
        if is_first:
            self._timers.forgotten()
        return is_first

    def take(self) -> Callable[[], object] | None:
        """The action, for the first caller only."""
        try:
            return self._actions.pop()
        except IndexError:
            return None


class Timers:
    """Calls actions when they are due.

    Args:
        clock: seconds, monotonic.
        on_death: called if the thread dies.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, on_death: Callable[[], None] = lambda: None
    ) -> None:
        self._clock, self._on_death = clock, on_death
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._heap: list[Timer] = []
        self._cancelled = 0
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="timers", daemon=True)

    def start(self) -> None:
        """Begin to call what is due."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; pending timers do not fire."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def schedule(self, due: float, action: Callable[[], object]) -> Timer:
        """Call `action`, which must not block, at `due` on the clock."""
        timer = Timer(self, due, action)
        with self._lock:
            heapq.heappush(self._heap, timer)
            if self._heap[0] is timer:
                self._changed.notify()
        return timer

    def forgotten(self) -> None:
        """A timer was cancelled: sweep once most of the heap is."""
        self._cancelled += 1  # counted without the lock: a sweep too late or too early does no harm
        if self._cancelled > len(self._heap) / 2 + _SPARE_TIMERS:
            with self._lock:
                self._heap = [timer for timer in self._heap if timer.is_pending]
                heapq.heapify(self._heap)
                self._cancelled = 0

    def fire(self) -> None:
        """Call everything that is due."""
        due: list[Timer] = []
        with self._lock:
            now = self._clock()
            while self._heap and self._heap[0].due <= now:
                due.append(heapq.heappop(self._heap))
        for timer in due:
            action = timer.take()
            if action is None:
                self._cancelled -= 1
                continue
            try:
                action()
            except Exception:  # noqa: BLE001 (the other timers fire all the same)
                _log.exception("a timer failed")

    def _run(self) -> None:
        try:
            while not self._is_closing:
                self.fire()
                with self._changed:
                    if not self._is_closing and (pause_s := self._pause_s()):
                        self._changed.wait(pause_s)
        finally:
            if not self._is_closing:
                self._on_death()

    def _pause_s(self) -> float:
        following = self._heap[0].due - self._clock() if self._heap else threading.TIMEOUT_MAX
        return max(0.0, min(following, threading.TIMEOUT_MAX))


@dataclass(frozen=True, slots=True)
class Exchanges:
    """What sends messages to a worker.

    Args:
        link: the worker.
        timers: end the wait for a reply.
        write_error: an error as the reply to a message; the error itself where the call ends with a status.
        default_timeout_s: of a message without a deadline, and the longest that a client may ask for.
        is_traced: whether workers note what they do.
    """

    link: Link
    timers: Timers
    write_error: Callable[[Ticket, SwiftrecError], Reply]
    default_timeout_s: float
    is_traced: bool = False

    def send(
        self,
        method: str,
        message: bytes,
        time_left_s: float | None,
        on_reply: Callable[[Reply], None],
        works: list[Work],
    ) -> Exchange:
        """Have a message answered; `on_reply` is called once, by any thread, unless the exchange is cancelled.

        Workers note in `works` what they do, if calls are traced.
        """
        left_s = self.default_timeout_s if time_left_s is None else min(time_left_s, self.default_timeout_s)
        exchange = Exchange(self, on_reply)
        deadline = time.monotonic() + left_s
        exchange.start(Ticket(method, message, deadline, exchange.settle, works if self.is_traced else None))
        return exchange


@dataclass(slots=True, eq=False)
class Exchange:
    """A message and the wait for its reply."""

    _exchanges: Exchanges
    _on_reply: Callable[[Reply], None]
    _claims: list[None] = field(default_factory=lambda: [None])  # pop is atomic: who has it settles the exchange
    ticket: Ticket = field(init=False)
    _timer: Timer = field(init=False)

    def start(self, ticket: Ticket) -> None:
        """Send the message."""
        self.ticket = ticket
        self._timer = self._exchanges.timers.schedule(ticket.deadline, self._expire)
        self._exchanges.link.send(ticket)

    def settle(self, reply: Reply) -> None:
        """The reply is there."""
        if on_reply := self._claim():
            on_reply(reply)

    def cancel(self) -> None:
        """Drop the reply: the client has gone."""
        if self._claim():
            self._exchanges.link.cancel(self.ticket)

    def _expire(self) -> None:
        if on_reply := self._claim():
            self._exchanges.link.cancel(self.ticket)
            on_reply(self._exchanges.write_error(self.ticket, DeadlineExceeded(_LATE)))

    def _claim(self) -> Callable[[Reply], None] | None:
        """The callback, for the first caller only.

        Breaks the reference cycles of the exchange: gRPC keeps a stream open while anything refers to its call.
        """
        try:
            self._claims.pop()
        except IndexError:
            return None
        self._timer.cancel()
        on_reply, self._on_reply, self.ticket.done = self._on_reply, _ignore, _ignore
        return on_reply


def _ignore(_reply: Reply) -> None:
    """The exchange is settled."""
