"""Whether a call is accepted: a full queue, too long a wait, or too late for its deadline is said at once."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from server.batching.scheduler import Limits
from server.errors import DeadlineExceeded, Overloaded, SwiftrecError

MIN_RETRY_S = 0.01
BUDGET_MARGIN = 0.92  # of the budget: a wait is predicted from means, and no wait should be longer than the budget


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
