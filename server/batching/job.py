"""What a batcher works on: a job, the model that runs it, and who hears of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Generic, NamedTuple, Protocol, TypeVar

from server.batching.admission import Refusal
from server.batching.policy import Reason
from server.errors import SwiftrecError

P = TypeVar("P")
R = TypeVar("R")
P_contra = TypeVar("P_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)


class Model(Protocol[P_contra, R_co]):
    """What runs a batch: one result for each job, in order."""

    def run(self, jobs: Sequence[P_contra], /) -> Sequence[R_co]:
        """Run the batch."""


class Watcher(Protocol):
    """Hears what a batcher does; called by its threads, so it must be quick and must not raise."""

    def refused(self, why: Refusal, /) -> None:
        """A job was not accepted."""

    def dropped(self, why: str, /) -> None:
        """A job that waited was not run: "expired" or "cancelled"."""

    def ran(self, waits_s: Sequence[float], tokens: int, padded: int, seconds: float, why: Reason, /) -> None:
        """A batch ran: how long each job had waited, tokens without and with padding, its run time, why it left."""


class Run(NamedTuple):
    """When the batch of a job started and ended, in seconds on the batcher's clock."""

    started: float
    ended: float


class State(Enum):
    """Of a job."""

    NEW = 0
    WAITING = 1
    RUNNING = 2
    DONE = 3
    CANCELLED = 4
    EXPIRED = 5


class Job(Generic[P, R]):
    """One piece of work in a queue. Only its batcher changes it.

    Attributes:
        run: the batch that made its result; None before that, and where it met an error.
    """

    __slots__ = (
        *("answered", "arrival", "cost_s", "deadline", "done", "due", "payload", "priority"),
        *("run", "soonest", "state", "tokens"),
    )

    def __init__(
        self, payload: P, tokens: int, priority: int, deadline: float, done: Callable[[R | SwiftrecError], None]
    ) -> None:
        self.payload, self.tokens, self.priority, self.deadline, self.done = payload, tokens, priority, deadline, done
        self.soonest = deadline  # of those who want it; `deadline` is the latest
        self.arrival = self.due = self.cost_s = 0.0
        self.state, self.answered = State.NEW, False
        self.run: Run | None = None
