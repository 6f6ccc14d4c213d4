"""Calls that have arrived without their request, and the refusal of new calls when the server stops."""

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

    A request normally follows its call at once. If too many calls have none, the oldest of them is refused, so clients
    that never send requests do not block others.

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

    def enter(self, call: UnaryCall) -> UnaryCall | None:
        """Wait for the request of a call; returns the call that must be refused to make room, if any."""
        self._waiting[call] = None
        if len(self._waiting) <= self._limit:
            return None
        oldest = next(iter(self._waiting))
        del self._waiting[oldest]
        return oldest

    def leave(self, call: UnaryCall) -> None:
        """The request has arrived, or never will."""
        self._waiting.pop(call, None)
