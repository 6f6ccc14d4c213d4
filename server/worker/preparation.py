"""Prepares large messages in parts, so that other calls run in between."""

from __future__ import annotations

from collections.abc import Callable

from swiftrec.server.batching.cost_model import Rate
from swiftrec.server.ticket import Ticket
from swiftrec.server.worker.call import WorkerCall

_PART_S = 0.001  # spent on one message at a time
_BYTE_S = 3e-7  # initial estimate for a byte of a message


class PreparationQueue:
    """Calls whose messages are partly prepared, in the order in which they continue.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._calls: dict[Ticket, WorkerCall] = {}
        self._byte = Rate(_BYTE_S)

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def wait_s(self) -> float:
        """Predicted time until all calls are prepared."""
        return sum(map(self.left_s, self._calls.values()))

    def left_s(self, call: WorkerCall) -> float:
        """Predicted time until a call is prepared."""
        return self._byte(len(call.ticket.message) * (1 - call.prepared_share))

    def prepare_part(self, call: WorkerCall) -> bool:
        """Prepare the first or next part of a call; True if the call is now prepared or cancelled.

        Raises:
            SwiftrecError: the call is rejected.
        """
        started, before = self._clock(), call.prepared_share
        if call.preparation is None:
            call.preparation = iter(call.prepare())
        for share in call.preparation:
            call.prepared_share = share
            if call.ticket.is_cancelled:
                return True
            elapsed_s = self._clock() - started
            if elapsed_s >= _PART_S and share < 1:
                self._byte.observe(len(call.ticket.message) * (share - before), elapsed_s)
                return False
        return True

    def push(self, call: WorkerCall) -> None:
        """Add a call at the end."""
        self._calls[call.ticket] = call

    def pop(self) -> WorkerCall:
        """Remove and return the call that continues next."""
        return self._calls.pop(next(iter(self._calls)))

    def remove(self, ticket: Ticket) -> WorkerCall | None:
        """Remove a call, if it is here."""
        return self._calls.pop(ticket, None)

    def clear(self) -> list[WorkerCall]:
        """Remove all calls."""
        calls, self._calls = list(self._calls.values()), {}
        return calls
