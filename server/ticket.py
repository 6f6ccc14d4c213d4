"""A message that a front sends to a worker."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeAlias

from swiftrec.server.errors import DeadlineExceeded, SwiftrecError
from swiftrec.server.telemetry.traces import PipelineSpan

_log = logging.getLogger(__name__)
Reply: TypeAlias = "bytes | SwiftrecError"


class Ticket:
    """One message for a worker: a unary call, or one message of a stream.

    Args:
        method: full name, "/package.Service/Method".
        message: the serialised request.
        deadline: when the client stops waiting, on the monotonic clock.
        done: called once, by the worker's thread, with the response or the error.
        spans: the worker adds to it if the call is traced; None if it is not.
    """

    __slots__ = ("deadline", "done", "is_cancelled", "message", "method", "spans")

    def __init__(
        self,
        method: str,
        message: bytes,
        deadline: float,
        done: Callable[[Reply], None],
        spans: list[PipelineSpan] | None = None,
    ) -> None:
        self.method, self.message, self.deadline, self.done, self.spans = method, message, deadline, done, spans
        self.is_cancelled = False

    def check(self, now: float) -> None:
        """Check that the client still waits for the reply.

        Raises:
            DeadlineExceeded: it does not.
        """
        if self.is_cancelled or self.deadline <= now:
            raise DeadlineExceeded("the deadline passed before the response was ready")

    def deliver(self, reply: Reply) -> None:
        """Pass the reply to `done`; an error there affects only this call."""
        if self.is_cancelled:
            return
        try:
            self.done(reply)
        except Exception:  # noqa: BLE001
            _log.exception("a reply could not be delivered")
