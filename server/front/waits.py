"""Timers, and exchanges of messages with a worker, each of which has a deadline."""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from swiftrec.server.errors import DeadlineExceeded, SwiftrecError
from swiftrec.server.front.link import Link
from swiftrec.server.telemetry.traces import PipelineSpan
from swiftrec.server.ticket import Reply, Ticket

FIRST_MESSAGE_TIMEOUT_S = 10.0  # how long a call may wait for its request
_MAX_CANCELLED_TIMERS = 1_000  # that stay in the heap in addition to half of it
_EXPIRED = "the deadline passed before the response was ready"
_log = logging.getLogger(__name__)


class Timer:
    """Calls an action at a given time, unless it is cancelled."""

    __slots__ = ("_actions", "_timers", "due")

    def __init__(self, timers: Timers, due: float, action: Callable[[], object]) -> None:
        self._timers, self.due = timers, due
        self._actions = [action]  # pop is atomic: the action is either called or cancelled

    def __lt__(self, other: Timer) -> bool:
        return self.due < other.due

    @property
    def is_pending(self) -> bool:
        """Whether it has neither fired nor been cancelled."""
        return bool(self._actions)

    def cancel(self) -> bool:
        """Cancel the action; False if it was already called or cancelled."""
        is_first = self.pop_action() is not None
        if is_first:
            self._timers.on_cancelled()
        return is_first

    def pop_action(self) -> Callable[[], object] | None:
        """The action, for the first caller only; then None."""
        try:
            return self._actions.pop()
        except IndexError:
            return None


class Timers:
    """Calls actions at given times, in one thread.

    Args:
        clock: seconds, monotonic.
        on_death: called if the thread ends unexpectedly.
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
        """Start the thread."""
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

    def on_cancelled(self) -> None:
        """Count a cancelled timer; remove all of them once they are most of the heap."""
        self._cancelled += 1  # without the lock: a removal slightly early or late does no harm
        if self._cancelled > len(self._heap) / 2 + _MAX_CANCELLED_TIMERS:
            with self._lock:
                self._heap = [timer for timer in self._heap if timer.is_pending]
                heapq.heapify(self._heap)
                self._cancelled = 0

    def fire(self) -> None:
        """Call all actions that are due."""
        due: list[Timer] = []
        with self._lock:
            now = self._clock()
            while self._heap and self._heap[0].due <= now:
                due.append(heapq.heappop(self._heap))
        for timer in due:
            action = timer.pop_action()
            if action is None:
                self._cancelled -= 1
                continue
            try:
                action()
            except Exception:  # noqa: BLE001 (must not affect other timers)
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
    """Sends messages to a worker.

    Args:
        link: the worker.
        timers: end the wait for a reply.
        write_error: encodes an error as the reply to a message; returns the error itself if it becomes a status.
        default_timeout_s: of a message without a deadline; also the upper limit of client deadlines.
        is_traced: whether workers record spans.
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
        spans: list[PipelineSpan],
    ) -> Exchange:
        """Send a message; `on_reply` is called once, from any thread, unless the exchange is cancelled.

        Workers add to `spans` if calls are traced.
        """
        left_s = self.default_timeout_s if time_left_s is None else min(time_left_s, self.default_timeout_s)
        exchange = Exchange(self, on_reply)
        deadline = time.monotonic() + left_s
        exchange.start(Ticket(method, message, deadline, exchange.complete, spans if self.is_traced else None))
        return exchange


@dataclass(slots=True, eq=False)
class Exchange:
    """A message that was sent to a worker, until its reply, its deadline or a cancel."""

    _exchanges: Exchanges
    _on_reply: Callable[[Reply], None]
    _claims: list[None] = field(default_factory=lambda: [None])  # pop is atomic: its first caller ends the exchange
    ticket: Ticket = field(init=False)
    _timer: Timer = field(init=False)

    def start(self, ticket: Ticket) -> None:
        """Send the message."""
        self.ticket = ticket
        self._timer = self._exchanges.timers.schedule(ticket.deadline, self._expire)
        self._exchanges.link.send(ticket)

    def complete(self, reply: Reply) -> None:
        """The reply has arrived."""
        if on_reply := self._claim():
            on_reply(reply)

    def cancel(self) -> None:
        """Drop the reply: the client has disconnected."""
        if self._claim():
            self._exchanges.link.cancel(self.ticket)

    def _expire(self) -> None:
        if on_reply := self._claim():
            self._exchanges.link.cancel(self.ticket)
            on_reply(self._exchanges.write_error(self.ticket, DeadlineExceeded(_EXPIRED)))

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
    """Ignore a reply after the end of the exchange."""
