"""Whether a call is accepted: a full queue, too long a wait, or too late for its deadline is said at once."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, NamedTuple, Protocol, TypeAlias

from swiftrec.server.batching.cost_model import Rate
from swiftrec.server.batching.request_queue import RequestQueue
from swiftrec.server.batching.scheduler import Limits
from swiftrec.server.errors import DeadlineExceeded, Overloaded, SwiftrecError

MIN_RETRY_S = 0.01
BUDGET_MARGIN = 0.92  # of the budget: a wait is predicted from means, and no wait should be longer than the budget
BATCH_CALLS_SHARE = 0.5  # of the time that batch calls may take while single calls wait
_BATCH_CALLS_AHEAD = 2.5  # times what is left of the lists in the queue: about half of each has run, and more will come


class RejectReason(Enum):
    """Why a call was rejected."""

    EXPIRED = "expired"
    FULL = "full"
    BUDGET = "budget"
    DEADLINE = "deadline"


class Load(NamedTuple):
    """What waits; `wait_s` is the predicted time until a request that arrives now would start."""

    jobs: int
    tokens: int
    wait_s: float


def reject(load: Load, tokens: int, run_s: float, time_left_s: float, limits: Limits) -> RejectReason | None:
    """The reason to reject a call whose texts have `tokens` and which would run `run_s`, or None.

    If the queue is empty, every call is accepted whose deadline has not passed.
    """
    if time_left_s <= 0:
        return RejectReason.EXPIRED
    if not load.jobs:
        return None
    if load.jobs >= limits.waiting_jobs or load.tokens + tokens > limits.waiting_tokens:
        return RejectReason.FULL
    if load.wait_s > BUDGET_MARGIN * limits.budget_s:
        return RejectReason.BUDGET
    if load.wait_s + run_s > time_left_s:
        return RejectReason.DEADLINE
    return None


def rejection(reason: RejectReason, load: Load, limits: Limits) -> SwiftrecError:
    """The error for the client, with the time after which a retry makes sense."""
    if reason is RejectReason.EXPIRED:
        return DeadlineExceeded("the deadline had passed before the work was queued")
    if reason is RejectReason.BUDGET:
        return Overloaded(max(MIN_RETRY_S, load.wait_s - BUDGET_MARGIN * limits.budget_s))
    if reason is RejectReason.DEADLINE:
        return Overloaded(max(MIN_RETRY_S, load.wait_s), "the response would not be ready before the deadline")
    return Overloaded(max(MIN_RETRY_S, load.wait_s))


Reject: TypeAlias = "Callable[[Load, int, float, float, Limits], RejectReason | None]"


class AdmissionRecorder(Protocol):
    """Records calls that are rejected."""

    def rejected(self, reason: Enum, /) -> None:
        """A call was not accepted."""


class Admission:
    """Judges calls by what waits in a queue.

    Args:
        queue: where they would wait.
        drift: real seconds for each predicted one.
        limits: of the queue.
        recorder: records what is rejected.
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
        """Why a call with `requests` requests is not accepted beside `calls` others; None if it is."""
        load, meanwhile_s = self._load_before(requests, cost_s, calls, now)
        return self.judge(load, tokens, self._drift(cost_s + meanwhile_s), time_left_s)

    def judge(self, load: Load, tokens: int, run_s: float, time_left_s: float) -> SwiftrecError | None:
        """Why a call that finds this load is not accepted; None if it is."""
        reason = self._reject(load, tokens, run_s, time_left_s, self._limits)
        if reason is None:
            return None
        if self._recorder:
            self._recorder.rejected(reason)
        return rejection(reason, load, self._limits)

    def _load_before(self, requests: int, cost_s: float, calls: int, now: float) -> tuple[Load, float]:
        """The load that a call with `requests` requests finds, and the predicted time of other work between them.

        A call does not wait for the later requests of other batch calls. A batch call takes turns with them, and with
        those that arrive in the meantime, in `BATCH_CALLS_SHARE` of the time. The limits of the queue count all.
        """
        self._queue.look(now)
        waiting, later = self._queue.waiting, self._queue.later
        wait_s = self._drift(waiting.cost_s - later.cost_s)
        if requests > 1:
            others_s = min(_BATCH_CALLS_AHEAD * later.cost_s, cost_s * calls)
            meanwhile_s = (cost_s + others_s) / BATCH_CALLS_SHARE - cost_s if others_s else 0.0
            return Load(waiting.requests, waiting.tokens, wait_s), meanwhile_s
        return Load(waiting.requests - later.requests, waiting.tokens - later.tokens, wait_s), 0.0
