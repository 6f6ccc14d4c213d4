"""The queue of requests, and which of them run in the next step. Has no clock: the time is an argument."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from swiftrec.server.batching.scheduler import Limits, Reason

NEVER = float("inf")


class QueuedRequest:
    """A request as the queue needs it; times are in seconds on one clock.

    Args:
        priority: 1 (most urgent) to 9.

    Attributes:
        tokens: of its texts that have to be encoded.
        cost_s: predicted time of its share of a step.
        batch_s: predicted fixed time of the batches of models in its step.
        deadline: when the client stops waiting.
        arrival: when it was queued.
        lag_s: delay of its turn after the first request of its batch call, so that other calls do not wait for the
            whole batch.
        is_entry: whether it is one of several requests of its call.
        is_queued: whether it is in the queue.
        is_later: whether its turn had not come at the last `update_later`.
    """

    __slots__ = (
        *("arrival", "batch_s", "cost_s", "deadline", "is_entry", "is_later", "is_queued", "lag_s", "priority"),
        "tokens",
    )

    def __init__(self, priority: int) -> None:
        self.priority, self.deadline, self.tokens = priority, NEVER, 0
        self.arrival = self.cost_s = self.batch_s = self.lag_s = 0.0
        self.is_entry = self.is_queued = self.is_later = False

    @property
    def turn(self) -> float:
        """The time that its order in the queue is based on."""
        return self.arrival + self.lag_s


Q = TypeVar("Q", bound=QueuedRequest)


@dataclass(frozen=True, slots=True)
class Step(Generic[Q]):
    """The requests of a step, why it has no more, and the requests that expired in the queue."""

    requests: Sequence[Q]
    reason: Reason
    expired: Sequence[Q]


class Sums:
    """The number of requests, and the sums of their tokens and costs."""

    __slots__ = ("cost_s", "requests", "tokens")

    def __init__(self) -> None:
        self.requests = self.tokens = 0
        self.cost_s = 0.0

    def add(self, request: QueuedRequest) -> None:
        """Add a request."""
        self.requests += 1
        self.tokens += request.tokens
        self.cost_s += request.cost_s

    def subtract(self, request: QueuedRequest) -> None:
        """Subtract a request."""
        self.requests -= 1
        self.tokens -= request.tokens
        self.cost_s = self.cost_s - request.cost_s if self.requests else 0.0


class RequestQueue(Generic[Q]):
    """Requests by urgency: by priority, which improves with waiting, then deadline, then arrival. Not thread-safe.

    The order of two requests never changes while they wait, because both age at the same rate.

    Args:
        aging_s: a request that has waited this long counts as one priority more urgent.

    Attributes:
        waiting: sums of all requests.
        later: queued work of batch calls that is still delayed; new requests run before it.
    """

    def __init__(self, aging_s: float) -> None:
        self._aging_s = aging_s
        self._heap: list[tuple[int, float, float, int, Q]] = []
        self._by_turn: list[tuple[float, int, Q]] = []  # heap of the later requests
        self._number = 0
        self.waiting, self.later = Sums(), Sums()

    def push(self, request: Q) -> None:
        """Add a request."""
        level = int(request.priority + request.turn / self._aging_s)
        self._number += 1
        heapq.heappush(self._heap, (level, request.deadline + request.lag_s, request.turn, self._number, request))
        request.is_queued = True
        self.waiting.add(request)
        if request.lag_s:
            request.is_later = True
            self.later.add(request)
            heapq.heappush(self._by_turn, (request.turn, self._number, request))

    def update_later(self, now: float) -> None:
        """Remove requests from `later` once their delay is over."""
        while self._by_turn and self._by_turn[0][0] <= now:
            self._end_lag(heapq.heappop(self._by_turn)[-1])

    def remove(self, request: Q) -> None:
        """Remove a request, if it is in the queue."""
        if request.is_queued:
            self._forget(request)
            if len(self._heap) > 2 * self.waiting.requests + 64:
                self._heap = [entry for entry in self._heap if entry[-1].is_queued]
                heapq.heapify(self._heap)
                self._by_turn = [entry for entry in self._by_turn if entry[-1].is_later]
                heapq.heapify(self._by_turn)

    def next_step(self, limits: Limits, now: float, entries_s: float | None = None) -> Step[Q]:
        """Take the requests of the next step: the most urgent ones, as many as the limits of a step allow.

        Args:
            limits: of the step.
            now: requests whose deadline is not later have expired.
            entries_s: predicted time to which requests of batch calls may extend the step; None: no special limit.
        """
        entries_s = limits.step_s if entries_s is None else min(entries_s, limits.step_s)
        selected: list[Q] = []
        expired: list[Q] = []
        predicted_s, fixed_s, reason = 0.0, 0.0, Reason.DRAINED
        while self._heap:
            request = self._heap[0][-1]
            is_live = request.is_queued and request.deadline > now
            if is_live and len(selected) == limits.batch_size:
                reason = Reason.FULL
                break
            longest_s = fixed_s + (entries_s if request.is_entry else limits.step_s)
            if is_live and selected and predicted_s + request.cost_s > longest_s:
                reason = Reason.CUT
                break
            heapq.heappop(self._heap)
            if is_live and not selected:
                fixed_s = request.batch_s
            if request.is_queued:
                self._forget(request)
                (selected if is_live else expired).append(request)
                predicted_s += request.cost_s if is_live else 0.0
        return Step(selected, reason, expired)

    def _forget(self, request: Q) -> None:
        request.is_queued = False
        self.waiting.subtract(request)
        self._end_lag(request)

    def _end_lag(self, request: Q) -> None:
        if request.is_later:
            request.is_later = False
            self.later.subtract(request)
