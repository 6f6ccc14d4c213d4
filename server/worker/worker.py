"""The worker: admits calls, and answers them a step at a time. Free of gRPC and of threads; time comes from a clock."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from typing import Protocol, TypeAlias

from server.batching.admission import Load, RejectReason, reject, rejection
from server.batching.cost_model import Rate
from server.batching.request_queue import RequestQueue
from server.batching.scheduler import Limits
from server.errors import DeadlineExceeded, SwiftrecError, internal_error
from server.pipeline.recommender import Recommender
from server.ticket import Ticket
from server.worker.opening import Opening
from server.worker.work import Task, Work

_log = logging.getLogger(__name__)
_ITEM_S = 2e-6  # of writing an item of a response, until it is measured
_OPEN_SHARE = 0.5  # of a step's time that is spent on messages that are not open, before each step
_MIN_DRIFT = 0.1  # a step is at most ten times longer than its requests are predicted to take
_MIN_PREDICTED_S = 1e-9
_BATCH_CALLS_SHARE = 0.5  # of the time that batch calls may take while single calls wait
_BATCH_CALLS_AHEAD = 2.5  # times what is left of the lists that are here: about half has run, and others will come


class WorkerRecorder(Protocol):
    """Records what a worker decides."""

    def stepped(self, reason: Enum, /) -> None:
        """A step begins; why it has no more requests."""

    def rejected(self, reason: Enum, /) -> None:
        """A call was not accepted."""


Reject: TypeAlias = "Callable[[Load, int, float, float, Limits], RejectReason | None]"


class Worker:
    """Calls in, replies out. `admit` and `step` are called by one thread.

    Args:
        methods: makes the work of a call, from its ticket and the time of its arrival; by full name.
        limits: of a step and of the queue.
        recorder: records what it decides.
        clock: seconds, monotonic; the one of the tickets' deadlines.
        reject: the rule that rejects calls; tests turn it off to see what it is good for.
    """

    def __init__(
        self,
        methods: Mapping[str, Callable[[Ticket, float], Work]],
        limits: Limits,
        *,
        recorder: WorkerRecorder | None = None,
        clock: Callable[[], float] = time.monotonic,
        reject: Reject = reject,
    ) -> None:
        self._methods, self._limits, self._recorder, self._clock = methods, limits, recorder, clock
        self._reject = reject
        self._queue: RequestQueue[Task] = RequestQueue(limits.aging_s)
        self._works: dict[Ticket, Work] = {}  # calls whose requests are queued
        self._opening = Opening(clock)
        self._drift = Rate(1.0, limits.step_s)  # real seconds for each predicted one
        self._response = Rate(_ITEM_S)  # seconds for each item of a response
        self._last_drift = 1.0  # of the last step: after a slow step the next one is short
        self._admitted_s = 0.0  # that admitting calls has taken since the last step
        self._step_s = 0.0

    @property
    def has_work(self) -> bool:
        """Whether anything waits for a step."""
        return self._queue.waiting.requests > 0 or bool(self._opening)

    @property
    def load(self) -> Load:
        """What waits, and for how long."""
        waiting = self._queue.waiting
        return Load(waiting.requests, waiting.tokens, self._drift(waiting.cost_s) + self._opening.wait_s)

    @property
    def step_s(self) -> float:
        """Predicted length of the step that runs, or ran last."""
        return self._step_s

    @property
    def calls(self) -> int:
        """Calls that were admitted and have no reply yet."""
        return len(self._works) + len(self._opening)

    def admit(self, ticket: Ticket) -> None:
        """Decode, validate, resolve and predict a call; then refuse it at once or queue it."""
        if ticket.is_cancelled:
            self.cancel(ticket)
            return
        now = self._clock()
        work = self._methods[ticket.method](ticket, now)
        if error := self._rejection(ticket, (), now):  # before anything is decoded
            self._refuse(work, error)
        else:
            self._open(work)
        self._admitted_s += self._clock() - now

    def cancel(self, ticket: Ticket) -> None:
        """The client has gone, or the deadline has passed: requests that have not started never run."""
        now = self._clock()
        if work := self._take_back(ticket, "expired" if ticket.deadline <= now else "cancelled"):
            work.failed(now)
            work.release()

    def refuse_all(self, error: SwiftrecError) -> None:
        """End every call that was admitted; nothing can be answered any more."""
        works, self._works = [*self._works.values(), *self._opening.clear()], {}
        for work in works:
            self._refuse(work, error)

    def step(self) -> None:
        """Go on with what is not open, and answer the most urgent requests as one batch."""
        if self._opening:
            self._open_more()
        started = self._clock()
        longest_s = self._limits.step_s / max(self._drift(1.0), self._last_drift, _MIN_DRIFT)
        step = self._queue.next_step(replace(self._limits, step_s=longest_s), started)
        for task in (*step.requests, *step.expired):
            task.model.left_queue(task.tokens)
        for task in step.expired:
            self._expire(task)
        tasks = [task for task in step.requests if self._is_wanted(task)]
        if not tasks:
            self._admitted_s = 0.0
            return
        if self._recorder:
            self._recorder.stepped(step.reason)
        predicted_s = sum(task.cost_s for task in tasks)
        self._step_s = self._drift(predicted_s)
        for task in tasks:
            task.state.started = started
            task.model.started(started - task.work.arrival)
        for recommender, batch in _by_recommender(tasks).items():
            self._run(recommender, batch)
        self._respond(tasks)
        took_s = self._clock() - started
        self._last_drift = took_s / max(predicted_s, _MIN_PREDICTED_S)
        self._drift.observe(predicted_s, took_s + self._admitted_s)
        self._admitted_s = 0.0

    def _open_more(self) -> None:
        """Open large messages in turn, for a time; a short one need not wait for the whole of a long one."""
        started = self._clock()
        ends = started + _OPEN_SHARE * self._limits.step_s
        while self._opening and self._clock() < ends:
            work = self._opening.pop()
            if work.ticket.deadline <= self._clock():
                self._refuse(work, DeadlineExceeded("the deadline passed while the message was read"))
            else:
                self._open(work)
        self._admitted_s += self._clock() - started

    def _open(self, work: Work) -> None:
        """Open a message, or a part of it; once it is open, queue its requests or refuse the call."""
        is_new = work.opening is None
        try:
            is_open = self._opening.open_part(work)
            error = self._rejection_of(work) if is_open else self._rejection_of_part(work) if is_new else None
        except Exception as failure:  # noqa: BLE001 (whatever it is concerns this call alone)
            is_open, error = True, failure
        if work.ticket.is_cancelled:
            self._opening.push(work)
            self.cancel(work.ticket)
        elif error:
            self._refuse(work, error)
        elif is_open:
            self._queue_all(work)
        else:
            self._opening.push(work)

    def _rejection_of(self, work: Work) -> Exception | None:
        """Why a call whose message is open is not accepted; None if it is."""
        for task in work.tasks:
            task.cost_s += self._response(task.state.response_work)
        return self._rejection(work.ticket, work.tasks, self._clock())

    def _rejection_of_part(self, work: Work) -> Exception | None:
        """Why a large message is not read on: too many others are being opened; None if it is."""
        load = Load(len(self._opening), 0, self._opening.wait_s)
        left_s = work.ticket.deadline - self._clock()
        return self._judged(self._reject(load, 0, self._opening.left_s(work), left_s, self._limits), load)

    def _judged(self, reason: RejectReason | None, load: Load) -> SwiftrecError | None:
        """The error of a call that is rejected."""
        if reason is None:
            return None
        if self._recorder:
            self._recorder.rejected(reason)
        return rejection(reason, load, self._limits)

    def _is_wanted(self, task: Task) -> bool:
        """Whether a request still has a caller: the message of a cancel may wait behind this step."""
        if task.work.ticket.is_cancelled:
            task.model.dropped("cancelled")
            self.cancel(task.work.ticket)
        return not task.work.is_over

    def _run(self, recommender: Recommender, tasks: Sequence[Task]) -> None:
        try:
            recommender.run([task.state for task in tasks])
        except Exception as failure:  # noqa: BLE001 (the errors have it as their cause)
            for task in tasks:
                task.state.error = internal_error(failure)

    def _respond(self, tasks: Sequence[Task]) -> None:
        """Send the responses of calls whose last request has run, and learn what that costs."""
        started = self._clock()
        done = [task.work for task in tasks if self._is_done(task)]
        if done:
            work = sum(task.state.response_work for one in done for task in one.tasks)
            self._finish(done)
            self._response.observe(work, self._clock() - started)

    def _rejection(self, ticket: Ticket, tasks: Sequence[Task], now: float) -> SwiftrecError | None:
        """Why a call with these requests is not accepted; None if it is."""
        tokens, cost_s = sum(task.tokens for task in tasks), sum(task.cost_s for task in tasks)
        load, meanwhile_s = self._load_before(len(tasks), cost_s, now)
        run_s = self._drift(cost_s + meanwhile_s)
        return self._judged(self._reject(load, tokens, run_s, ticket.deadline - now, self._limits), load)

    def _load_before(self, requests: int, cost_s: float, now: float) -> tuple[Load, float]:
        """The load that a call with `requests` requests finds, and the predicted time of other work between them.

        A call does not wait for the later requests of other batch calls. A batch call takes turns with them, and with
        those that arrive in the meantime, in `_BATCH_CALLS_SHARE` of the time. The limits of the queue count all.
        """
        self._queue.look(now)
        waiting, later = self._queue.waiting, self._queue.later
        wait_s = self._drift(waiting.cost_s - later.cost_s)
        if requests > 1:
            others_s = min(_BATCH_CALLS_AHEAD * later.cost_s, cost_s * len(self._works))
            meanwhile_s = (cost_s + others_s) / _BATCH_CALLS_SHARE - cost_s if others_s else 0.0
            return Load(waiting.requests, waiting.tokens, wait_s), meanwhile_s
        return Load(waiting.requests - later.requests, waiting.tokens - later.tokens, wait_s), 0.0

    def _queue_all(self, work: Work) -> None:
        """Queue all requests of a call.

        Those of a batch call have turns at intervals, so that all batch calls leave half of the time to single calls.
        """
        self._works[work.ticket] = work
        batch_calls = sum(len(one.tasks) > 1 for one in self._works.values()) if len(work.tasks) > 1 else 0
        now, lag_s = self._clock(), 0.0  # opening a large batch takes time, too
        for task in work.tasks:
            task.arrival, task.lag_s, task.deadline = now, lag_s, work.ticket.deadline
            lag_s += self._drift(task.cost_s) * batch_calls / _BATCH_CALLS_SHARE
            self._queue.push(task)
            task.model.queued(task.tokens)
        if not work.tasks:
            self._finish([work])

    def _expire(self, task: Task) -> None:
        """A request's deadline has passed, and with it that of its whole call."""
        task.model.dropped("expired")
        if work := self._take_back(task.work.ticket, "expired"):
            self._refuse(work, DeadlineExceeded("the deadline passed while the work was queued"))

    def _take_back(self, ticket: Ticket, reason: str) -> Work | None:
        """Take the requests of a call out of the queue; the call, if it has no reply yet."""
        work = self._works.pop(ticket, None) or self._opening.remove(ticket)
        for task in work.tasks if work else ():
            if task.is_queued:
                self._queue.remove(task)
                task.model.left_queue(task.tokens)
                task.model.dropped(reason)
        return work

    def _is_done(self, task: Task) -> bool:
        """Whether this was the last request of its call."""
        task.work.missing -= 1
        return not task.work.missing

    def _finish(self, works: Sequence[Work]) -> None:
        """Send the responses of calls of which every request has run."""
        for work in works:
            if self._works.pop(work.ticket, None) is None:
                continue
            now = self._clock()
            try:
                work.ticket.check(now)
                reply = work.respond(now)
            except Exception as error:  # noqa: BLE001 (whatever it is concerns this call alone)
                self._refuse(work, error)
                continue
            work.release()
            work.ticket.deliver(reply)

    def _refuse(self, work: Work, error: Exception) -> None:
        work.failed(self._clock())
        work.release()
        work.ticket.deliver(work.refusal(error))


def _by_recommender(tasks: Sequence[Task]) -> dict[Recommender, list[Task]]:
    found: dict[Recommender, list[Task]] = {}
    for task in tasks:
        found.setdefault(task.recommender, []).append(task)
    return found
