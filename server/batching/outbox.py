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
LONGEST_S = 0.05  # that an answer waits for others
LEFT_S = 0.05  # of an answer's time, for what comes after it


class Outbox(Generic[P, R]):
    """What one session has answered and not handed out yet. Only that session touches it."""

    def __init__(self) -> None:
        self._answers: list[tuple[Job[P, R], R]] = []
        self._ready = 0.0

    def __len__(self) -> int:
        return len(self._answers)

    def __iter__(self) -> Iterator[tuple[Job[P, R], R]]:
        return iter(self._answers)

    def put(self, answers: Iterable[tuple[Job[P, R], R]], now: float) -> None:
        """Keep the answers of a batch that ended at `now`."""
        if not self._answers:
            self._ready = now
        self._answers += answers

    def has_room(self, waiting: int) -> bool:
        """Whether so many waiting jobs, the session's share of the queue, are reason enough to run another batch first.

        They are if more than twice as many wait as have been answered.
        """
        return not self._answers or len(self._answers) < min(MOST, waiting / 2)

    def may_wait(self, until: float) -> bool:
        """Whether a batch that is predicted to end at `until` may run first: no answer is urgent or would be late.

        Called under the batcher's lock, since whoever joins a job changes its priority and its deadlines.
        """
        if not self._answers:
            return True
        soonest = min(job.soonest for job, _ in self._answers)
        is_urgent = any(job.priority < DEFAULT_PRIORITY for job, _ in self._answers)
        return not is_urgent and until < min(self._ready + LONGEST_S, soonest - LEFT_S)

    def clear(self) -> None:
        """All have been handed out."""
        self._answers = []
