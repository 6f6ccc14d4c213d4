"""A call on its way from a front to a worker and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from server.errors import SwiftrecError
from server.telemetry.traces import Work

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
