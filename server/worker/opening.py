"""Messages with many entries are opened a part at a time, so that other calls come in between."""

from __future__ import annotations

from collections.abc import Callable

from swiftrec.server.batching.cost_model import Rate
from swiftrec.server.ticket import Ticket
from swiftrec.server.worker.work import Work

_PART_S = 0.001  # that one message is opened at a time
_BYTE_S = 3e-7  # of opening a byte, until it is measured


class Opening:
    """Calls whose messages are open in part, in the order in which they go on.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._works: dict[Ticket, Work] = {}
        self._byte = Rate(_BYTE_S)

    def __len__(self) -> int:
        return len(self._works)

    @property
    def wait_s(self) -> float:
        """Predicted time until all of them are open."""
        return sum(map(self.left_s, self._works.values()))

    def left_s(self, work: Work) -> float:
        """Predicted time until a message is open."""
        return self._byte(len(work.ticket.message) * (1 - work.opened))

    def open_part(self, work: Work) -> bool:
        """Open a message, or the next part of it; whether it is open now, or its call is cancelled.

        Raises:
            SwiftrecError: the call is refused.
        """
        started, before = self._clock(), work.opened
        if work.opening is None:
            work.opening = iter(work.open())
        for share in work.opening:
            work.opened = share
            if work.ticket.is_cancelled:
                return True
            took_s = self._clock() - started
            if took_s >= _PART_S and share < 1:
                self._byte.observe(len(work.ticket.message) * (share - before), took_s)
                return False
        return True

    def push(self, work: Work) -> None:
        """Have a message go on after the others."""
        self._works[work.ticket] = work

    def pop(self) -> Work:
        """Take the message that goes on next."""
        return self._works.pop(next(iter(self._works)))

    def remove(self, ticket: Ticket) -> Work | None:
        """Take back a call, if it is here."""
        return self._works.pop(ticket, None)

    def clear(self) -> list[Work]:
        """Take back all calls."""
        works, self._works = list(self._works.values()), {}
        return works
