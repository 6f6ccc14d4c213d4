"""The batcher: the only owner of its queue; its threads take what is there as soon as they are free."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from server.batching.policy import Limits, plan
from server.errors import DeadlineExceeded, ModelFailed, Overloaded, ShuttingDown

P = TypeVar("P")
R = TypeVar("R")
P_contra = TypeVar("P_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)

_log = logging.getLogger(__name__)
_RETRY_AFTER_S = 0.1  # the measured drain time takes its place with admission control


class Model(Protocol[P_contra, R_co]):
    """What runs a batch: one result for each job, in order."""

    def run(self, jobs: Sequence[P_contra], /) -> Sequence[R_co]:
        """Run the batch."""


@dataclass(frozen=True, slots=True)
class _Job(Generic[P, R]):
    payload: P
    tokens: int
    deadline: float
    waiter: Future[R] = field(default_factory=Future)


class Batcher(Generic[P, R]):
    """Groups jobs for one model. `start` before the first `submit`, `stop` at the end.

    Args:
        name: for threads and metrics.
        model: runs the batches.
        limits: of a batch and of the queue.
        sessions: threads that run the model.
        clock: seconds, monotonic.
        observe: called with (jobs, padded tokens) of each batch.
        on_death: called if a thread ends by an error of ours; the server is not healthy from then on.
    """

    def __init__(
        self,
        name: str,
        model: Model[P, R],
        limits: Limits,
        *,
        sessions: int = 1,
        clock: Callable[[], float] = time.monotonic,
        observe: Callable[[int, int], None] = lambda _jobs, _tokens: None,
        on_death: Callable[[], None] = lambda: None,
    ) -> None:
        self._model, self._limits, self._clock = model, limits, clock
        self._observe, self._on_death = observe, on_death
        self._waiting: list[_Job[P, R]] = []  # touched only under _changed
        self._changed = threading.Condition()
        self._is_open = True
        self._threads = [threading.Thread(target=self._loop, name=f"{name}-{n}", daemon=True) for n in range(sessions)]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Refuse new jobs, finish what waits, end the threads."""
        with self._changed:
            self._is_open = False
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def submit(self, payload: P, tokens: int, deadline: float) -> Future[R]:
        """Queue a job; its future brings the result or the error. Cancel the future to take the job back.

        Raises:
            DeadlineExceeded: `deadline` (on the clock) has passed.
            Overloaded: the queue is full.
            ShuttingDown: `stop` was called, or the threads died.
        """
        if deadline <= self._clock():
            raise DeadlineExceeded("the deadline had passed before the work was queued")
        job: _Job[P, R] = _Job(payload, tokens, deadline)
        with self._changed:
            if not self._is_open:
                raise ShuttingDown("the server is stopping")
            if len(self._waiting) >= self._limits.waiting:
                raise Overloaded(_RETRY_AFTER_S)
            self._waiting.append(job)
            self._changed.notify()
        return job.waiter

    def _loop(self) -> None:
        batch: list[_Job[P, R]] = []
        try:
            while batch := self._next():
                self._run([job for job in batch if self._is_wanted(job)])
        except BaseException:  # noqa: BLE001 (a bug of ours: say so, answer who waits, and turn health off)
            _log.exception("batching thread died")
            self._abandon(batch)
            self._on_death()

    def _next(self) -> list[_Job[P, R]]:
        """Wait for jobs and take the next batch; empty when stopped and drained."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or not self._is_open)
            if not self._waiting:
                return []
            chosen = set(plan([job.tokens for job in self._waiting], self._limits))
            batch = [job for n, job in enumerate(self._waiting) if n in chosen]
            self._waiting = [job for n, job in enumerate(self._waiting) if n not in chosen]
            return batch

    def _is_wanted(self, job: _Job[P, R]) -> bool:
        """Whether the job still has someone who waits for it in time; an expired one is answered here."""
        if not job.waiter.set_running_or_notify_cancel():
            return False
        if job.deadline <= self._clock():
            job.waiter.set_exception(DeadlineExceeded("the deadline passed while the work was queued"))
            return False
        return True

    def _run(self, batch: list[_Job[P, R]]) -> None:
        if not batch:
            return
        self._observe(len(batch), len(batch) * max(job.tokens for job in batch))
        try:
            results = self._model.run([job.payload for job in batch])
            pairs = list(zip(batch, results, strict=True))  # a result too few is the model's error, too
        except Exception as error:  # noqa: BLE001 (whatever a model raises concerns its own jobs only)
            self._isolate(batch, error)
            return
        for job, result in pairs:
            job.waiter.set_result(result)

    def _isolate(self, batch: list[_Job[P, R]], error: Exception) -> None:
        """A batch failed: run its jobs one by one, so that only the guilty one fails."""
        if len(batch) == 1:
            _log.error("model failed on a job", exc_info=error)
            batch[0].waiter.set_exception(ModelFailed("the model failed on this input"))
            return
        for job in batch:
            self._run([job])

    def _abandon(self, batch: list[_Job[P, R]]) -> None:
        with self._changed:
            self._is_open = False
            orphans, self._waiting = [*batch, *self._waiting], []
        for job in orphans:
            if not job.waiter.done() and (job.waiter.running() or job.waiter.set_running_or_notify_cancel()):
                job.waiter.set_exception(ShuttingDown("the server has failed"))
