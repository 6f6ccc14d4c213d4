"""Interface of a front to a worker; within one process it is `server.worker.loop.WorkerThread`."""

from __future__ import annotations

from typing import Protocol

from swiftrec.server.batching.admission import Load
from swiftrec.server.ticket import Ticket


class Link(Protocol):
    """A worker."""

    @property
    def load(self) -> Load:
        """The load of the worker's queue, as last reported."""

    def send(self, ticket: Ticket, /) -> None:
        """Send a call to the worker; never blocks."""

    def cancel(self, ticket: Ticket, /) -> None:
        """Cancel a call: its client has disconnected or cancelled, or its deadline has passed."""
