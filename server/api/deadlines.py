"""Ends calls whose time is up while they wait for answers: one thread for all of them."""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

import grpc

from server.errors import Cancelled, RequestMissing

_STEP_S = 0.005  # deadlines are rounded up to it, so that thousands of calls share a place in the heap
SILENCE_S = 10.0  # a call holds a place so long before its request comes
_SPARE = 1_000  # places in the heap beyond those in use, before it is made anew
M = TypeVar("M")


class Timed(Protocol):
    """What ends at a deadline: a call, or the wait for its request."""

    @property
    def deadline(self) -> float:
        """On the clock, in seconds."""

    @property
    def cancel(self) -> Callable[[], object]:
        """Called when the deadline has passed."""


@dataclass(frozen=True, slots=True, eq=False)
class Timer:
    """Does something at a deadline."""

    deadline: float
    cancel: Callable[[], object]


class Deadlines:
    """Cancels what is still watched when its deadline has passed, at most 5 ms later.

    Args:
        clock: seconds, monotonic; the one of the calls.
        on_death: called if the thread dies.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, on_death: Callable[[], None] = lambda: None
    ) -> None:
        self._clock, self._on_death = clock, on_death
        self._lock = threading.Lock()  # by itself, since entering a condition is a call in Python, four times a request
        self._changed = threading.Condition(self._lock)
        self._slots: dict[int, set[Timed]] = {}
        self._order: list[int] = []  # a heap of the slots, and of some that have gone
        self._is_closing = False
        self._thread = threading.Thread(target=self._loop, name="deadlines", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; what is watched is left alone."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def watch(self, call: Timed) -> None:
        """Cancel `call` once its deadline has passed."""
        place = _slot(call.deadline)
        with self._lock:
            slot = self._slots.get(place)
            if slot is None:
                slot = self._slots[place] = set()
                is_first = not self._order or place < self._order[0]
                heapq.heappush(self._order, place)
                if is_first:
                    self._changed.notify()
            slot.add(call)

    def forget(self, call: Timed) -> None:
        """The call needs no watching any more."""
        with self._lock:
            place = _slot(call.deadline)
            slot = self._slots.get(place)
            if slot is None:
                return
            slot.discard(call)
            if not slot:  # a client may ask for hours: its slots must not stay for hours
                del self._slots[place]
                if len(self._order) > 2 * len(self._slots) + _SPARE:
                    self._order = list(self._slots)
                    heapq.heapify(self._order)

    def expire(self) -> float:
        """Cancel what is late; the seconds until there is something to look at again."""
        late: list[Timed] = []
        with self._lock:
            while self._order and self._order[0] * _STEP_S <= self._clock():
                late += self._slots.pop(heapq.heappop(self._order), ())
            seconds = self._pause_s()
        for call in late:
            call.cancel()
        return seconds

    def _loop(self) -> None:
        try:
            while not self._is_closing:
                self.expire()
                with self._changed:  # looked at again, since a nearer deadline may have come meanwhile
                    seconds = self._pause_s()
                    if not self._is_closing and seconds:
                        self._changed.wait(seconds)
        finally:
            if not self._is_closing:
                self._on_death()

    def _pause_s(self) -> float:
        following = self._order[0] * _STEP_S - self._clock() if self._order else threading.TIMEOUT_MAX
        return max(0.0, min(following, threading.TIMEOUT_MAX))


def first_message(messages: Iterator[M], context: grpc.ServicerContext, deadlines: Deadlines, within_s: float) -> M:
    """The request of a call that takes one.

    Raises:
        RequestMissing: the client has ended its side without one.
        Cancelled: the client has cancelled, or the request did not come within `within_s`, which cancels the call.
    """
    silence = Timer(time.monotonic() + within_s, context.cancel)
    deadlines.watch(silence)
    try:
        return next(messages)
    except StopIteration:
        raise RequestMissing("the request is missing") from None
    except grpc.RpcError:  # what gRPC raises of a call that has ended
        raise Cancelled("the call was cancelled before its request came") from None
    finally:
        deadlines.forget(silence)


def _slot(deadline: float) -> int:
    return int(deadline / _STEP_S) + 1
