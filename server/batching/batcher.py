"""The batcher: the only owner of its queue; a free session takes what is there, at once."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from itertools import islice
from typing import Generic, TypeVar

from server.batching.admission import Load, Refusal, error, refuse
from server.batching.cost import CostModel
from server.batching.job import Job, Model, State, Watcher
from server.batching.outbox import Outbox
from server.batching.policy import DEFAULT_PRIORITY, WINDOW, Limits, Plan, Reason, plan, room
from server.errors import DeadlineExceeded, ModelFailed, ShuttingDown, SwiftrecError

P = TypeVar("P")
R = TypeVar("R")

_log = logging.getLogger(__name__)


class Batcher(Generic[P, R]):
    """Groups jobs for one model. `start` before the first `submit`, `stop` at the end.

    Args:
        name: for threads.
        model: runs the batches.
        limits: of a batch and of the queue.
        cost: predicts and learns run times.
        sessions: threads that run the model.
        clock: seconds, monotonic.
        watcher: hears what happens.
        on_death: called if a thread ends by an error of ours; the server is not healthy from then on.
        admit: the rule that refuses (tests turn it off to see what it is good for).
    """

    def __init__(
        self,
        name: str,
        model: Model[P, R],
        limits: Limits,
        *,
        cost: CostModel | None = None,
        sessions: int = 1,
        clock: Callable[[], float] = time.monotonic,
        watcher: Watcher | None = None,
        on_death: Callable[[], None] = lambda: None,
        admit: Callable[[Load, int, float, float, Limits], Refusal | None] = refuse,
    ) -> None:
        self._model, self._limits, self._clock, self._admit = model, limits, clock, admit
        self.cost = cost or CostModel()
        self._watcher, self._on_death = watcher, on_death
        self._lock = threading.Lock()  # all that follows is touched only under it
        self._levels: dict[int, OrderedDict[Job[P, R], None]] = {}
        self._jobs = self._tokens = 0
        self._idle: list[threading.Lock] = []  # doorbells of the sessions that wait: held until somebody rings
        self._backlog_s = 0.0
        self._free_at = [0.0] * sessions
        self._bells = [_held() for _ in range(sessions)]
        self._is_open = True
        self._threads = [
            threading.Thread(target=self._loop, args=(n,), name=f"{name}-{n}", daemon=True) for n in range(sessions)
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self, timeout_s: float | None = None) -> None:
        """Refuse new jobs, finish what waits, end the threads; without waiting longer than `timeout_s`."""
        with self._lock:
            self._is_open = False
            bells, self._idle = self._idle, []
        for bell in bells:
            bell.release()
        end = None if timeout_s is None else time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(end and max(0.0, end - time.monotonic()))

    def submit(
        self,
        payload: P,
        tokens: int,
        deadline: float,
        done: Callable[[R | SwiftrecError], None],
        priority: int = DEFAULT_PRIORITY,
    ) -> Job[P, R]:
        """Queue a job. `done` is called once, by a session's thread, with the result or the error.

        Raises:
            DeadlineExceeded: `deadline` (on the clock) has passed.
            Overloaded: the queue is full, or the job would finish after its deadline.
            ShuttingDown: `stop` was called, or the threads died.
        """
        job: Job[P, R] = Job(payload, tokens, priority, deadline, done)
        job.cost_s = self.cost.row_s(tokens) + self.cost.batch_s / room(tokens, self._limits)
        with self._lock:
            if not self._is_open:
                raise ShuttingDown("the server is stopping")
            job.arrival = self._clock()
            load = self._load(job.arrival)
            why = self._admit(load, tokens, job.cost_s, deadline - job.arrival, self._limits)
            job.due = job.arrival + load.wait_s
            bell = None
            if why is None:
                self._add(job)
                bell = self._idle.pop() if self._idle else None
        if bell is not None:  # after the lock, which the woken thread would wait for
            bell.release()
        if why is not None:
            if self._watcher:
                self._watcher.refused(why)
            raise error(why, load, self._limits)
        return job

    def cancel(self, job: Job[P, R]) -> bool:
        """Take a waiting job back: its slot is free at once and `done` is never called. False if it runs or has run."""
        with self._lock:
            if job.state is not State.WAITING:
                return False
            self._remove(job)
            job.state = State.CANCELLED
        if self._watcher:
            self._watcher.dropped("cancelled")
        return True

    def extend(self, job: Job[P, R], deadline: float, priority: int) -> bool:
        """Somebody else wants the same job: it is worth running until the later deadline, at the higher priority.

        False if it has expired already.
        """
        with self._lock:
            if job.state is State.EXPIRED:
                return False
            job.deadline, job.soonest = max(job.deadline, deadline), min(job.soonest, deadline)
            if priority < job.priority:
                is_waiting = job.state is State.WAITING
                if is_waiting:
                    self._remove(job)
                job.priority = priority
                if is_waiting:
                    self._add(job)
            return True

    def load(self) -> Load:
        """What waits now, and for how long."""
        with self._lock:
            return self._load(self._clock())

    def _load(self, now: float) -> Load:
        if self._idle and not self._jobs:
            return Load(0, 0, 0.0)
        running_s = sum(max(0.0, at - now) for at in self._free_at)
        return Load(self._jobs, self._tokens, (running_s + self._backlog_s) / len(self._free_at))

    def _add(self, job: Job[P, R]) -> None:
        self._levels.setdefault(job.priority, OrderedDict())[job] = None
        self._jobs += 1
        self._tokens += job.tokens
        self._backlog_s += job.cost_s

    def _remove(self, job: Job[P, R]) -> None:
        del self._levels[job.priority][job]
        self._jobs -= 1
        self._tokens -= job.tokens
        self._backlog_s = self._backlog_s - job.cost_s if self._jobs else 0.0

    def _loop(self, session: int) -> None:
        batch: list[Job[P, R]] = []
        outbox: Outbox[P, R] = Outbox()
        try:
            while taken := self._next(session, outbox):
                batch, why = taken
                for job in batch:
                    if job.state is State.EXPIRED:
                        self._expire(job)
                self._run([job for job in batch if job.state is State.RUNNING], why, outbox)
        except BaseException:  # noqa: BLE001 (a bug of ours: say so, answer who waits, and turn health off)
            _log.exception("batching thread died")
            try:
                self._abandon(batch, outbox)
            finally:
                self._on_death()

    def _next(self, session: int, outbox: Outbox[P, R]) -> tuple[list[Job[P, R]], Reason] | None:
        """Wait for jobs and take the next batch, with the answers handed out that cannot wait for it.

        None when stopped and drained.
        """
        bell = self._bells[session]
        while True:
            with self._lock:
                if self._jobs and outbox.has_room(self._jobs // len(self._bells)):
                    now = self._clock()
                    chosen, why = self._choose(now)
                    ends = now + self.cost(len(chosen), max(job.tokens for job in chosen))
                    if outbox.may_wait(ends):
                        return self._take(session, chosen, now, ends), why
                elif not outbox:
                    if not self._is_open:
                        return None
                    self._free_at[session] = 0.0
                    self._idle.append(bell)
            if outbox:
                self._hand_out(outbox)
            else:
                bell.acquire()

    def _hand_out(self, outbox: Outbox[P, R]) -> None:
        for job, result in outbox:
            if not job.answered:
                self._finish(job, result)
        outbox.clear()

    def _take(self, session: int, chosen: list[Job[P, R]], now: float, ends: float) -> list[Job[P, R]]:
        for job in chosen:
            self._remove(job)
            job.state = State.RUNNING if job.deadline > now else State.EXPIRED
        self._free_at[session] = ends
        return chosen

    def _choose(self, now: float) -> tuple[list[Job[P, R]], Reason]:
        window = [job for level in self._levels.values() for job in islice(level, WINDOW)]
        if len(self._levels) > 1:
            window.sort(key=lambda job: job.priority * self._limits.aging_s + job.arrival)
        decided: Plan = plan(window, self._limits, self.cost, now)
        return [window[n] for n in decided.chosen], decided.reason

    def _expire(self, job: Job[P, R]) -> None:
        if self._watcher:
            self._watcher.dropped("expired")
        job.answered = True
        job.done(DeadlineExceeded("the deadline passed while the work was queued"))

    def _run(self, batch: list[Job[P, R]], why: Reason, outbox: Outbox[P, R]) -> None:
        if not batch:
            return
        started = self._clock()
        try:
            results = self._model.run([job.payload for job in batch])
            pairs = list(zip(batch, results, strict=True))  # a result too few is the model's error, too
        except Exception as failure:  # noqa: BLE001 (whatever a model raises concerns its own jobs only)
            self._isolate(batch, failure, why, outbox)
            return
        ended = self._clock()
        self._learn(batch, started, ended - started, why)
        outbox.put(pairs, ended)

    def _learn(self, batch: list[Job[P, R]], started: float, seconds: float, why: Reason) -> None:
        longest = max(job.tokens for job in batch)
        self.cost.observe(len(batch), longest, seconds)
        if self._watcher:
            waits = [started - job.arrival for job in batch]
            self._watcher.ran(waits, sum(job.tokens for job in batch), longest * len(batch), seconds, why)

    def _finish(self, job: Job[P, R], result: R | SwiftrecError) -> None:
        job.state, job.answered = State.DONE, True
        job.done(result)

    def _isolate(self, batch: list[Job[P, R]], failure: Exception, why: Reason, outbox: Outbox[P, R]) -> None:
        """A batch failed: run its jobs one by one, so that only the guilty one fails."""
        if len(batch) == 1:
            _log.error("model failed on a job", exc_info=failure)
            self._finish(batch[0], ModelFailed("the model failed on this input"))
            return
        self._hand_out(outbox)  # nobody waits for the others, one by one
        for job in batch:
            with self._lock:
                if job.deadline <= self._clock():
                    job.state = State.EXPIRED
            if job.state is State.EXPIRED:
                self._expire(job)
            else:
                self._run([job], why, outbox)
                self._hand_out(outbox)

    def _abandon(self, batch: list[Job[P, R]], outbox: Outbox[P, R]) -> None:
        with self._lock:
            self._is_open = False
            waiting = [job for level in self._levels.values() for job in level]
            for job in waiting:
                self._remove(job)
        for held, result in outbox:
            self._tell(held, result)
        for job in [*batch, *waiting]:
            self._tell(job, ShuttingDown("the server has failed"))

    def _tell(self, job: Job[P, R], result: R | SwiftrecError) -> None:
        """Answer a job that was not answered, whatever comes of it: the next one is answered too."""
        try:
            if not job.answered:
                self._finish(job, result)
        except Exception:  # noqa: BLE001 (whatever it is)
            _log.exception("an answer was not taken")


def _held() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock
