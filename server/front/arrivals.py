"""Calls that have come and whose request has not, and the end of arrivals when the server stops."""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Callable

from server.errors import ShuttingDown, SwiftrecError
from server.front.grpc_adapter import UnaryCall

_STOPPING = "the server is stopping: send the call to another server, or again later"


class Arrivals:
    """Bounds calls without a request. gRPC's polling thread alone enters and removes calls.

    A request follows its call at once. So where too many calls have none, the one that has waited longest makes room:
    calls that never send theirs do not keep others out.

    Args:
        limit: calls that may wait for their request.
        clock: seconds, monotonic.
    """

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit, self._clock = limit, clock
        self._waiting: dict[UnaryCall, None] = {}  # in the order of arrival
        self._last = clock()
        self._late: queue.SimpleQueue[Callable[[SwiftrecError], object]] = queue.SimpleQueue()
        self._is_closed = self._is_refusing = False

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def quiet_s(self) -> float:
        """Seconds since the last call came."""
        return self._clock() - self._last

    def close(self) -> None:
        """Take no more calls: those that come wait, so that their clients send no others, until they are refused."""
        self._is_closed = True

    def refuse(self) -> None:
        """Refuse the calls that have come since `close`, and those that still come."""
        self._is_refusing = True
        with contextlib.suppress(queue.Empty):
            while True:
                self._late.get_nowait()(ShuttingDown(_STOPPING))

    def admit(self, refuse: Callable[[SwiftrecError], object]) -> bool:
        """Note that a call has come; False if it is too late for it, then `refuse` is called with the reason."""
        self._last = self._clock()
        if not self._is_closed:
            return True
        self._late.put(refuse)
        if self._is_refusing:
            self.refuse()
        return False

    def enter(self, call: UnaryCall) -> UnaryCall | None:
        """Wait for the request of a call; the call that must make room for it, if one must."""
        self._waiting[call] = None
        if len(self._waiting) <= self._limit:
            return None
        oldest = next(iter(self._waiting))
        del self._waiting[oldest]
        return oldest

    def leave(self, call: UnaryCall) -> None:
        """The request is there, or never comes."""
        self._waiting.pop(call, None)
