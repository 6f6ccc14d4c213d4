"""What travels through the pipeline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from server.batching.policy import DEFAULT_PRIORITY
from server.catalogue.catalogue import Filter, Item
from server.errors import Cancelled, DeadlineExceeded


@dataclass(frozen=True, slots=True)
class ItemEvent:
    """An item that the user took."""

    item_id: str


@dataclass(frozen=True, slots=True)
class TextEvent:
    """A text that says something of the user."""

    text: str


@dataclass(frozen=True, slots=True)
class Request:
    """A validated request."""

    history: tuple[ItemEvent | TextEvent, ...] = ()
    query: str = ""
    top_k: int = 10
    conditions: Filter = field(default_factory=Filter)
    exclude_history: bool = True
    priority: int = DEFAULT_PRIORITY


class Strategy(Enum):
    """How a ranking came about."""

    MODEL = "model"
    POPULARITY = "popularity"


@dataclass(slots=True)
class Timings:
    """Wall time of each step, in milliseconds."""

    tokenise_ms: float = 0.0
    encode_ms: float = 0.0
    rank_ms: float = 0.0
    retrieve_ms: float = 0.0
    total_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Recommendation:
    """Ranked items and how they came about."""

    items: list[tuple[Item, float]]
    ignored: list[str]
    strategy: Strategy
    events_used: int
    timings: Timings


class Call:
    """One call: its deadline, and the work that is taken back when nobody waits for it any more.

    The pipeline says how many answers are to come (`expect`) and that one is there (`arrived`); the edge waits for all.

    Args:
        deadline: on the clock, in seconds.
        clock: seconds, monotonic.
    """

    def __init__(self, deadline: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.deadline, self._clock = deadline, clock
        self._lock = threading.Lock()
        self._gate = threading.Lock()
        self._gate.acquire()
        self._missing = 0
        self._takes_back: list[Callable[[], object]] = []
        self._is_cancelled = False

    @property
    def is_cancelled(self) -> bool:
        """Whether nobody waits any more."""
        return self._is_cancelled

    def expect(self, answers: int) -> None:
        """So many answers are to come."""
        with self._lock:
            self._missing += answers

    def arrived(self) -> None:
        """One of them is there."""
        with self._lock:
            self._missing -= 1
            if self._missing or self._is_cancelled:
                return
            self._takes_back = []
        self._gate.release()

    def on_cancel(self, take_back: Callable[[], object]) -> None:
        """Call `take_back` when nobody waits any more; at once if that is so already."""
        with self._lock:
            if not self._is_cancelled:
                self._takes_back.append(take_back)
                return
        take_back()

    def wait(self) -> None:
        """Wait for every expected answer; the call cannot be waited for twice.

        Raises:
            DeadlineExceeded: they are not there in time; what has not started never runs.
            Cancelled: the caller has gone.
        """
        # Who was cancelled before he expected anything finds the gate closed, and nobody to open it.
        if not self._is_cancelled and not self._gate.acquire(timeout=max(0.0, self.deadline - self._clock())):
            self.cancel()
            raise DeadlineExceeded("the deadline passed before the answer was ready")
        if self._is_cancelled:
            if self._clock() >= self.deadline:  # gRPC says that the client has gone when its deadline has passed
                raise DeadlineExceeded("the deadline passed before the answer was ready")
            raise Cancelled("the caller has gone")

    def cancel(self) -> None:
        """Nobody waits any more: take back all work that has not started."""
        with self._lock:
            if self._is_cancelled:
                return
            is_waited_for, self._is_cancelled = self._missing > 0, True
            takes_back, self._takes_back = self._takes_back, []
        for take_back in takes_back:
            take_back()
        if is_waited_for:
            self._gate.release()
