"""Admission control: rejects calls immediately if the queue is full, or the wait or the deadline would be exceeded."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, NamedTuple, Protocol, TypeAlias

from swiftrec.server.batching.cost_model import Rate
from swiftrec.server.batching.request_queue import RequestQueue
from swiftrec.server.batching.scheduler import Limits
from swiftrec.server.errors import DeadlineExceeded, Overloaded, SwiftrecError

MIN_RETRY_S = 0.01
BUDGET_MARGIN = 0.92  # of the budget: the predicted wait is a mean, and no wait should exceed the budget
BATCH_CALLS_SHARE = 0.5  # of the time, for batch calls while single calls wait
_BATCH_CALLS_AHEAD = 2.5  # times the remaining cost of queued batch calls: half of each has run, and more will arrive


class RejectReason(Enum):
    """Why a call was rejected."""

    EXPIRED = "expired"
    FULL = "full"
    BUDGET = "budget"
    DEADLINE = "deadline"


class Load(NamedTuple):
    """The requests in the queue; `wait_s` is the predicted wait of a request that arrives now."""

    requests: int
    tokens: int
    wait_s: float


def reject(load: Load, tokens: int, run_s: float, time_left_s: float, limits: Limits) -> RejectReason | None:
    """The reason to reject a call with `tokens` and a predicted run time of `run_s`, or None to accept it.

    If the queue is empty, every call is accepted unless its deadline has passed.
    """
    if time_left_s <= 0:
        return RejectReason.EXPIRED
    if not load.requests:
        return None
    if load.requests >= limits.queue_requests or load.tokens + tokens > limits.queue_tokens:
        return RejectReason.FULL
    if load.wait_s > BUDGET_MARGIN * limits.budget_s:
        return RejectReason.BUDGET
    if load.wait_s + run_s > time_left_s:
        return RejectReason.DEADLINE
    return None


def rejection(reason: RejectReason, load: Load, limits: Limits) -> SwiftrecError:
    """The error for the client, with the time after which a retry may succeed."""
    if reason is RejectReason.EXPIRED:
        return DeadlineExceeded("the deadline had passed before the work was queued")
    if reason is RejectReason.BUDGET:
        return Overloaded(max(MIN_RETRY_S, load.wait_s - BUDGET_MARGIN * limits.budget_s))
    if reason is RejectReason.DEADLINE:
        return Overloaded(max(MIN_RETRY_S, load.wait_s), "the response would not be ready before the deadline")
    return Overloaded(max(MIN_RETRY_S, load.wait_s))


Reject: TypeAlias = "Callable[[Load, int, float, float, Limits], RejectReason | None]"


class AdmissionRecorder(Protocol):
    """Records rejected calls."""

    def on_rejected(self, reason: Enum, /) -> None:
        """A call was rejected."""


class Admission:
    """Decides on calls by the load of a queue.

    Args:
        queue: the requests that wait.
        drift: measured seconds for each predicted second.
        limits: of the queue.
        recorder: records rejected calls.
        reject: the rule.
    """

    def __init__(
        self,
        queue: RequestQueue[Any],
        drift: Rate,
        limits: Limits,
        recorder: AdmissionRecorder | None,
        reject: Reject,
    ) -> None:
        self._queue, self._drift, self._limits = queue, drift, limits
        self._recorder, self._reject = recorder, reject

    def rejection(
        self, requests: int, tokens: int, cost_s: float, time_left_s: float, calls: int, now: float
    ) -> SwiftrecError | None:
        """Why a call with `requests` requests is rejected, while `calls` others wait; None if it is accepted."""
        load, meanwhile_s = self._load_before(requests, cost_s, calls, now)
        return self.judge(load, tokens, self._drift(cost_s + meanwhile_s), time_left_s)

    def judge(self, load: Load, tokens: int, run_s: float, time_left_s: float) -> SwiftrecError | None:
        """Why a call is rejected at this load; None if it is accepted."""
        reason = self._reject(load, tokens, run_s, time_left_s, self._limits)
        if reason is None:
            return None
        if self._recorder:
            self._recorder.on_rejected(reason)
        return rejection(reason, load, self._limits)

    def _load_before(self, requests: int, cost_s: float, calls: int, now: float) -> tuple[Load, float]:
        """The load before a call with `requests` requests, and the predicted time of other work between its requests.

        A call does not wait for the later requests of other batch calls. A batch call takes turns with those, and with
        batch calls that arrive later, in `BATCH_CALLS_SHARE` of the time. The limits of the queue count all requests.
        """
        self._queue.update_later(now)
        waiting, later = self._queue.waiting, self._queue.later
        wait_s = self._drift(waiting.cost_s - later.cost_s)
        if requests > 1:
            others_s = min(_BATCH_CALLS_AHEAD * later.cost_s, cost_s * calls)
            meanwhile_s = (cost_s + others_s) / BATCH_CALLS_SHARE - cost_s if others_s else 0.0
            return Load(waiting.requests, waiting.tokens, wait_s), meanwhile_s
        return Load(waiting.requests - later.requests, waiting.tokens - later.tokens, wait_s), 0.0
