"""One message that a worker answers, with the timer that ends the wait: answered exactly once."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from server.errors import DeadlineExceeded, SwiftrecError
from server.front.link import Link
from server.front.timers import Timer, Timers
from server.telemetry.traces import Work
from server.ticket import Reply, Ticket

_LATE = "the deadline passed before the response was ready"


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
