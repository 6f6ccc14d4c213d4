"""What a front has of a worker: in one process the worker's thread, `server.worker.loop.WorkerThread`."""

from __future__ import annotations

from typing import Protocol

from swiftrec.server.batching.admission import Load
from swiftrec.server.ticket import Ticket


class Link(Protocol):
    """A worker that answers calls."""

    @property
    def load(self) -> Load:
        """The queue of the worker, as last reported."""

    def send(self, ticket: Ticket, /) -> None:
        """Have a call answered; never blocks."""

    def cancel(self, ticket: Ticket, /) -> None:
        """Drop a call: the client has gone, or its deadline has passed."""
