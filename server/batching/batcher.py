"""The batcher: the only owner of its queue; a free session takes what is there, at once."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from server.batching.admission import Load, Refusal, error, refuse
from server.batching.cost import CostModel
from server.batching.job import Job, Model, Run, State, Watcher
from server.batching.outbox import Outbox
from server.batching.policy import DEFAULT_PRIORITY, Limits, Plan, Reason, plan, room
from server.batching.waiting import Waiting
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
        self._waiting: Waiting[P, R] = Waiting()
        self._idle: list[threading.Lock] = []  # doorbells of the sessions that wait: held until somebody rings
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
        refusal = self.submit_many([job])[0]
        if refusal:
            raise refusal
        return job

    def submit_many(self, jobs: Sequence[Job[P, R]]) -> list[SwiftrecError | None]:
        """Queue new jobs together, each as `submit` would; for each the error that refused it, or None."""
        for job in jobs:
            job.cost_s = self.cost.job_s(job.tokens, room(job.tokens, self._limits))
        with self._lock:
            if not self._is_open:
                return [ShuttingDown("the server is stopping") for _ in jobs]
            now = self._clock()
            running_s = self._running_s(now)
            refused = [self._accept(job, now, running_s) for job in jobs]
            bells = [self._idle.pop() for _ in range(min(len(self._idle), self._waiting.jobs))]
        for bell in bells:  # after the lock, which the woken threads would wait for
            bell.release()
        return [why and self._refusal(*why) for why in refused]

    def _accept(self, job: Job[P, R], now: float, running_s: float) -> tuple[Refusal, Load] | None:
        """Queue the job, unless there is a reason to refuse it."""
        load = self._load(running_s)
        why = self._admit(load, job.tokens, job.cost_s, job.deadline - now, self._limits)
        if why is not None:
            return why, load
        job.arrival, job.due = now, now + load.wait_s
        self._waiting.add(job)
        return None

    def _refusal(self, why: Refusal, load: Load) -> SwiftrecError:
        if self._watcher:
            self._watcher.refused(why)
        return error(why, load, self._limits)

    def cancel(self, job: Job[P, R]) -> bool:
        """Take a waiting job back: its slot is free at once and `done` is never called. False if it runs or has run."""
        with self._lock:
            if job.state is not State.WAITING:
                return False
            self._waiting.remove(job)
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
                self._waiting.promote(job, priority)
            return True

    def load(self) -> Load:
        """What waits now, and for how long."""
        with self._lock:
            return self._load(self._running_s(self._clock()))

    def _running_s(self, now: float) -> float:
        return sum(max(0.0, at - now) for at in self._free_at)

    def _load(self, running_s: float) -> Load:
        waiting = self._waiting
        if self._idle and not waiting.jobs:
            return Load(0, 0, 0.0)
        return Load(waiting.jobs, waiting.tokens, (running_s + waiting.cost_s) / len(self._free_at))

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
                if self._waiting.jobs and outbox.has_room(self._waiting.jobs // len(self._bells)):
                    now = self._clock()
                    chosen, why = self._choose(now)
                    ends = now + self.cost(len(chosen), max(job.tokens for job in chosen))
                    if outbox.may_wait(ends):
                        self._waiting.take(chosen, now)
                        self._free_at[session] = ends
                        return chosen, why
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

    def _choose(self, now: float) -> tuple[list[Job[P, R]], Reason]:
        window = self._waiting.window(self._limits.aging_s)
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
        run = Run(started, ended)
        for job in batch:
            job.run = run
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
            waiting = list(self._waiting)
            for job in waiting:
                self._waiting.remove(job)
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
