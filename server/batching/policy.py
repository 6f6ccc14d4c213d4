"""Which jobs run together: pure functions of what waits, the limits, the cost model and the time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

WINDOW = 64  # jobs that a plan looks at, oldest first
PRIORITIES = range(10)  # 1 is the most urgent, 9 the least, 0 means the default
DEFAULT_PRIORITY = 5
_NOTHING = 0.1  # padding of less than a tenth of a batch's fixed cost is not worth an older job's wait
_PAIR_S = 1e-7  # what looking for the best cut costs for each pair of jobs in the window, in Python on a slow core


@dataclass(frozen=True, slots=True)
class Limits:
    """Of a batch: padded tokens and jobs. Of the queue: jobs, tokens, and the wait that is accepted, in seconds.

    `aging_s`: a job that has waited so long counts as one priority more urgent.
    """

    tokens: int = 1_024
    jobs: int = 64
    waiting_jobs: int = 4_096
    waiting_tokens: int = 262_144
    budget_s: float = 1.0
    aging_s: float = 0.1


class Waits(Protocol):
    """What a plan needs to know of a job; times are seconds on the batcher's clock."""

    @property
    def tokens(self) -> int:
        """Length."""

    @property
    def priority(self) -> int:
        """1 (most urgent) to 9."""

    @property
    def deadline(self) -> float:
        """When nobody waits any more."""

    @property
    def arrival(self) -> float:
        """When it was queued."""

    @property
    def due(self) -> float:
        """When it would start if jobs ran in the order of their arrival, as predicted on its arrival."""


class Cost(Protocol):
    """t(n, length) = batch_s + n * row_s(length) + n^2 * crowd_s(length), in seconds."""

    @property
    def batch_s(self) -> float:
        """Of a batch before its first row."""

    def row_s(self, length: int, /) -> float:
        """Of one more row."""

    def crowd_s(self, length: int, /) -> float:
        """Of each pair of rows beside that."""


class Reason(Enum):
    """Why a batch left with what it holds."""

    DRAINED = "drained"  # nothing else was there
    FULL = "full"  # one more would have broken a limit
    CUT = "cut"  # one more would have cost more, by padding or crowding, than a batch of its own


@dataclass(frozen=True, slots=True)
class Plan:
    """Positions of the jobs that run now."""

    chosen: list[int]
    reason: Reason


def urgency(job: Waits, now: float, limits: Limits) -> tuple[int, float, float]:
    """Smaller goes first: priority improved by waiting, then the deadline, then arrival."""
    return job.priority - int((now - job.arrival) / limits.aging_s), job.deadline, job.arrival


def plan(waiting: Sequence[Waits], limits: Limits, cost: Cost, now: float) -> Plan:
    """Choose what runs now among the first `WINDOW` jobs.

    The most urgent job always goes, so that none starves. Its mates are the next most urgent where their padding costs
    next to nothing, or less than looking for something better; else the group that holds it when the window, sorted by
    length, is cut into batches that cost least in all. Jobs that are overdue go before others as soon as they fill a
    batch: grouping by length delays nobody much.
    """
    if len(waiting) == 1:
        return Plan([0], Reason.DRAINED)
    window = waiting[:WINDOW]
    keys = [urgency(job, now, limits) for job in window]
    order = sorted(range(len(window)), key=keys.__getitem__)
    chosen = _prefix(window, order, limits)
    slack_s = cost.batch_s if len(chosen) == len(window) else _NOTHING * cost.batch_s
    slack_s = max(slack_s, _PAIR_S * len(window) ** 2)
    if _padding_s([window[n].tokens for n in chosen], cost) > slack_s:
        overdue = [n for n in order if window[n].due <= now]
        chosen = _group(window, overdue if len(overdue) >= len(chosen) else order, limits, cost)
    if len(chosen) == room(max(window[n].tokens for n in chosen), limits):
        return Plan(chosen, Reason.FULL)
    return Plan(chosen, Reason.DRAINED if len(chosen) == len(waiting) else Reason.CUT)


def _prefix(window: Sequence[Waits], order: Sequence[int], limits: Limits) -> list[int]:
    """As many of the most urgent as a batch holds."""
    chosen: list[int] = []
    longest = 0
    for n in order:
        longest = max(longest, window[n].tokens)
        if chosen and len(chosen) + 1 > room(longest, limits):
            break
        chosen.append(n)
    return chosen


def _padding_s(lengths: Sequence[int], cost: Cost) -> float:
    """What padding and crowding cost in one batch of these lengths."""
    jobs, longest = len(lengths), max(lengths)
    together_s = jobs * (cost.row_s(longest) + jobs * cost.crowd_s(longest))
    return together_s - sum(map(cost.row_s, lengths)) - sum(map(cost.crowd_s, lengths))


def _group(window: Sequence[Waits], order: Sequence[int], limits: Limits, cost: Cost) -> list[int]:
    """The group of the most urgent, `order[0]`, in the cheapest cut."""
    # Of equal lengths the most urgent come last, since the last group of a length is its fullest.
    by_length = list(reversed(order))
    by_length.sort(key=lambda n: window[n].tokens)
    place = by_length.index(order[0])
    groups = _cut([window[n].tokens for n in by_length], limits, cost)
    start, end = next(group for group in groups if group[0] <= place < group[1])
    return by_length[start:end]


def room(length: int, limits: Limits) -> int:
    """How many jobs of `length` tokens a batch holds; at least one."""
    return max(1, min(limits.jobs, limits.tokens // length))


def _cut(lengths: Sequence[int], limits: Limits, cost: Cost) -> list[tuple[int, int]]:
    """Cut ascending lengths into the ranges [start, end) that cost least in all (dynamic programming).

    A longer row costs no less, so that the last group never starts earlier when a length is added: earlier starts than
    before are not tried.
    """
    best, cuts, batch_s = [0.0], [0], cost.batch_s
    for end in range(1, len(lengths) + 1):
        row_s, crowd_s = cost.row_s(lengths[end - 1]), cost.crowd_s(lengths[end - 1])
        lowest, at = float("inf"), end - 1
        for start in range(max(cuts[-1], end - room(lengths[end - 1], limits)), end):
            total = best[start] + batch_s + (end - start) * (row_s + (end - start) * crowd_s)
            if total < lowest:
                lowest, at = total, start
        best.append(lowest)
        cuts.append(at)
    groups, end = [], len(lengths)
    while end:
        groups.append((cuts[end], end))
        end = cuts[end]
    return groups
