"""A call on its way from a front to a worker and back."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeAlias

from swiftrec.server.errors import DeadlineExceeded, SwiftrecError
from swiftrec.server.telemetry.traces import Work

_log = logging.getLogger(__name__)
Reply: TypeAlias = "bytes | SwiftrecError"


class Ticket:
    """One message that a worker answers: a unary call, or one message of a stream.

    Args:
        method: full name, "/package.Service/Method".
        message: the request as it came.
        deadline: when the client stops waiting, on the monotonic clock.
        done: called once, by the worker's thread, with the response or the error.
        works: where the worker notes what it did for the trace; None if the call is not traced.
    """

    __slots__ = ("deadline", "done", "is_cancelled", "message", "method", "works")

    def __init__(
        self,
        method: str,
        message: bytes,
        deadline: float,
        done: Callable[[Reply], None],
        works: list[Work] | None = None,
    ) -> None:
        self.method, self.message, self.deadline, self.done, self.works = method, message, deadline, done, works
        self.is_cancelled = False

    def check(self, now: float) -> None:
        """Check that somebody still waits for the reply.

        Raises:
            DeadlineExceeded: nobody does.
        """
        if self.is_cancelled or self.deadline <= now:
            raise DeadlineExceeded("the deadline passed before the response was ready")

    def deliver(self, reply: Reply) -> None:
        """Hand over the reply; whatever fails then concerns this call alone."""
        if self.is_cancelled:
            return
        try:
            self.done(reply)
        except Exception:  # noqa: BLE001
            _log.exception("a reply was not taken")
