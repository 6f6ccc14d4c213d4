"""The jobs that wait in one queue."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Generic, TypeVar

from server.batching.job import Job, State
from server.batching.policy import WINDOW

P = TypeVar("P")
R = TypeVar("R")


class Waiting(Generic[P, R]):
    """By priority, each in the order of arrival. Not thread-safe: its owner locks.

    Attributes:
        jobs: how many.
        tokens: of all of them.
        cost_s: what all of them will take, in seconds.
    """

    def __init__(self) -> None:
        self._levels: dict[int, OrderedDict[Job[P, R], None]] = {}
        self.jobs = self.tokens = 0
        self.cost_s = 0.0

    def __iter__(self) -> Iterator[Job[P, R]]:
        for level in self._levels.values():
            yield from level

    def add(self, job: Job[P, R]) -> None:
        """At the end of its priority."""
        self._levels.setdefault(job.priority, OrderedDict())[job] = None
        job.state = State.WAITING
        self.jobs += 1
        self.tokens += job.tokens
        self.cost_s += job.cost_s

    def remove(self, job: Job[P, R]) -> None:
        """It waits no more."""
        del self._levels[job.priority][job]
        self.jobs -= 1
        self.tokens -= job.tokens
        self.cost_s = self.cost_s - job.cost_s if self.jobs else 0.0

    def take(self, jobs: Iterable[Job[P, R]], now: float) -> None:
        """They run from now on, those apart whose deadline has passed."""
        for job in jobs:
            self.remove(job)
            job.state = State.RUNNING if job.deadline > now else State.EXPIRED

    def promote(self, job: Job[P, R], priority: int) -> None:
        """Give the job another priority, whether it waits or not."""
        is_waiting = job.state is State.WAITING
        if is_waiting:
            self.remove(job)
        job.priority = priority
        if is_waiting:
            self.add(job)

    def window(self, aging_s: float) -> list[Job[P, R]]:
        """What a plan looks at: the first of each priority, oldest first, one priority being worth `aging_s`."""
        window = [job for level in self._levels.values() for job in islice(level, WINDOW)]
        if len(self._levels) > 1:
            window.sort(key=lambda job: job.priority * aging_s + job.arrival)
        return window
