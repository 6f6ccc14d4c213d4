"""Whether a job may wait: full, too long a wait, or too late for its deadline is said at once."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from server.batching.policy import Limits
from server.errors import DeadlineExceeded, Overloaded, SwiftrecError

_LEAST_RETRY_S = 0.01
_SURE = 0.92  # of the budget: a wait is predicted from means, and nobody shall wait longer than the budget says


class Refusal(Enum):
    """Why a job was not accepted."""

    EXPIRED = "expired"
    FULL = "full"
    BUDGET = "budget"
    DEADLINE = "deadline"


class Load(NamedTuple):
    """What a queue holds; `wait_s` is the predicted time until a job that comes now would start."""

    jobs: int
    tokens: int
    wait_s: float


def refuse(load: Load, tokens: int, run_s: float, patience_s: float, limits: Limits) -> Refusal | None:
    """The reason to refuse a job of `tokens` that would run `run_s` and is worth `patience_s` from now, or None."""
    if patience_s <= 0:
        return Refusal.EXPIRED
    if load.jobs >= limits.waiting_jobs or load.tokens + tokens > limits.waiting_tokens:
        return Refusal.FULL
    if load.wait_s > _SURE * limits.budget_s:
        return Refusal.BUDGET
    if load.wait_s > 0 and load.wait_s + run_s > patience_s:  # an idle session tries, whatever the model predicts
        return Refusal.DEADLINE
    return None


def error(refusal: Refusal, load: Load, limits: Limits) -> SwiftrecError:
    """The refusal in domain words, with the time after which trying again makes sense."""
    if refusal is Refusal.EXPIRED:
        return DeadlineExceeded("the deadline had passed before the work was queued")
    if refusal is Refusal.BUDGET:
        return Overloaded(max(_LEAST_RETRY_S, load.wait_s - _SURE * limits.budget_s))
    return Overloaded(max(_LEAST_RETRY_S, load.wait_s))
