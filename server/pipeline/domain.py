"""What travels through the pipeline."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from server.catalogue.catalogue import Filter, Item
from server.errors import Cancelled


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
    """One call's deadline (on the monotonic clock) and the work that stops when nobody waits for it any more."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self._lock = threading.Lock()
        self._futures: list[Future[Any]] = []
        self._is_cancelled = False

    def track(self, future: Future[Any]) -> None:
        """Tie work to the call.

        Raises:
            Cancelled: nobody waits any more; the work is taken back.
        """
        with self._lock:
            self._futures.append(future)
            if not self._is_cancelled:
                return
        future.cancel()
        raise Cancelled("the caller has gone")

    def cancel(self) -> None:
        """Take back all work that has not started."""
        with self._lock:
            self._is_cancelled = True
            futures, self._futures = self._futures, []
        for future in futures:
            future.cancel()
