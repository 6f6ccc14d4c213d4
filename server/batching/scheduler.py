"""Forms batches: pure functions of the rows' lengths, the limits and the cost model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

MIN_SPLIT_S = 1e-3  # shorter batches are not split between sessions


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a step, of a batch of a model, and of the queue.

    Args:
        tokens: padded tokens in one batch of a model.
        batch_size: requests in a step, and rows in one batch of a model.
        queue_requests: requests in the queue.
        queue_tokens: tokens of their texts.
        budget_s: predicted wait beyond which requests are rejected, in seconds.
        aging_s: a request that has waited this long counts as one priority more urgent.
        step_s: predicted seconds of a step without the fixed cost of its batches; a step has at least one request.
    """

    tokens: int = 1_024
    batch_size: int = 64
    queue_requests: int = 4_096
    queue_tokens: int = 262_144
    budget_s: float = 1.0
    aging_s: float = 0.1
    step_s: float = 0.04


class Cost(Protocol):
    """t(n, length) = batch_s + n * row_s(length) + n^2 * cache_pressure_s(length), in seconds."""

    @property
    def batch_s(self) -> float:
        """Fixed cost of a batch."""

    def row_s(self, length: int, /) -> float:
        """Cost of an additional row."""

    def cache_pressure_s(self, length: int, /) -> float:
        """Cost of each pair of rows."""


class Reason(Enum):
    """Why a step has no more requests."""

    DRAINED = "drained"  # the queue was empty
    FULL = "full"  # the limit of requests was reached
    CUT = "cut"  # another request would have made the step longer than `Limits.step_s`


def batch_capacity(length: int, limits: Limits) -> int:
    """The number of rows of `length` tokens in a full batch; at least one."""
    return max(1, min(limits.batch_size, limits.tokens // length))


def form_batches(lengths: Sequence[int], limits: Limits, cost: Cost, sessions: int = 1) -> list[list[int]]:
    """Group rows of similar length into the batches with the lowest total cost; returns positions of rows.

    Args:
        lengths: tokens of each row, at least 1.
        limits: of one batch.
        cost: predicts the cost of batches.
        sessions: batches that run at the same time; long batches are halved if there are fewer batches.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    groups = [order[start:end] for start, end in _cut([lengths[n] for n in order], limits, cost)]
    while 0 < len(groups) < sessions:
        longest = max(groups, key=lambda group: _batch_s(group, lengths, cost))
        if len(longest) < 2 or _batch_s(longest, lengths, cost) < MIN_SPLIT_S:
            break
        groups.remove(longest)
        groups += [longest[: len(longest) // 2], longest[len(longest) // 2 :]]
    return groups


def _batch_s(group: Sequence[int], lengths: Sequence[int], cost: Cost) -> float:
    longest, rows = lengths[group[-1]], len(group)
    return cost.batch_s + rows * (cost.row_s(longest) + rows * cost.cache_pressure_s(longest))


def _cut(lengths: Sequence[int], limits: Limits, cost: Cost) -> list[tuple[int, int]]:
    """Cut ascending lengths into the ranges [start, end) with the lowest total cost (dynamic programming).

    Longer rows do not cost less, so the last range never starts earlier when a length is added: earlier starts are not
    tried again.
    """
    best, cuts, batch_s = [0.0], [0], cost.batch_s
    for end in range(1, len(lengths) + 1):
        length = lengths[end - 1]
        row_s, cache_pressure_s = cost.row_s(length), cost.cache_pressure_s(length)
        lowest, at = float("inf"), end - 1
        for start in range(max(cuts[-1], end - batch_capacity(length, limits)), end):
            total = best[start] + batch_s + (end - start) * (row_s + (end - start) * cache_pressure_s)
            if total < lowest:
                lowest, at = total, start
        best.append(lowest)
        cuts.append(at)
    groups, end = [], len(lengths)
    while end:
        groups.append((cuts[end], end))
        end = cuts[end]
    return groups
