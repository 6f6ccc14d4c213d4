"""Answers of one session that are handed out together while other work waits.

What follows a batch (ranking, search, the reply, the client's next request) is Python, and a transformer that runs
between two answers leaves cold caches to it: thirty answers in a row cost much less than four by four
(benchmarks/LOG.md), and what is saved is time that the queue does not wait.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from server.batching.job import Job
from server.batching.policy import DEFAULT_PRIORITY

P = TypeVar("P")
R = TypeVar("R")

MOST = 32  # answers; more in a row are hardly cheaper
LONGEST_S = 0.05  # that an answer waits for others; as much must be left until its deadline


class Outbox(Generic[P, R]):
    """What one session has answered and not handed out yet. Only that session touches it."""

    def __init__(self) -> None:
        self._answers: list[tuple[Job[P, R], R]] = []
        self._until = float("inf")
        self._batch_s = 0.0

    def __len__(self) -> int:
        return len(self._answers)

    def __iter__(self) -> Iterator[tuple[Job[P, R], R]]:
        return iter(self._answers)

    def put(self, answers: Iterable[tuple[Job[P, R], R]], seconds: float, now: float) -> None:
        """Keep the answers of a batch that ended at `now` after so many seconds."""
        self._batch_s = seconds
        for job, answer in answers:
            self._answers.append((job, answer))
            is_urgent = job.priority < DEFAULT_PRIORITY
            latest = now if is_urgent else min(now + LONGEST_S, job.deadline - LONGEST_S)
            self._until = min(self._until, latest)

    def may_wait(self, waiting: int, now: float) -> bool:
        """Whether another batch, as long as the last one, may run first.

        So it is while more than twice as many jobs wait, unless an answer is urgent, would wait too long, or has a
        deadline that is near.
        """
        return len(self._answers) < min(MOST, waiting / 2) and now + self._batch_s < self._until

    def clear(self) -> None:
        """All have been handed out."""
        self._answers, self._until = [], float("inf")
