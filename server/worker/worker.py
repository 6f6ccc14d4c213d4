"""The worker: admits calls, and answers them a step at a time. Free of gRPC and of threads; time comes from a clock."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from typing import Protocol, cast

from swiftrec.server.batching.admission import BATCH_CALLS_SHARE, Admission, AdmissionRecorder, Load, Reject, reject
from swiftrec.server.batching.cost_model import Rate
from swiftrec.server.batching.request_queue import RequestQueue
from swiftrec.server.batching.scheduler import Limits
from swiftrec.server.errors import DeadlineExceeded, SwiftrecError, internal_error
from swiftrec.server.pipeline.recommender import Recommender
from swiftrec.server.ticket import Ticket
from swiftrec.server.worker.opening import Opening
from swiftrec.server.worker.work import Task, Work

_log = logging.getLogger(__name__)
_ITEM_S = 2e-6  # of writing an item of a response, until it is measured
_OPEN_SHARE = 0.5  # of a step's time that is spent on messages that are not open, before each step
_BYTE_S = 1e-6  # of a batch call, until it is measured
_LARGE_BYTES = 2_048  # of a message from which on it counts as a batch call before it is open
_EARLY_SHARE = 0.7  # of what a call is predicted to cost by its bytes, so that few are refused that would do
_LATELY_S = 0.25  # within which a single call was queued: others will follow
_MIN_ENTRIES_S = 0.001  # of a step that batch calls share with single calls
_SINGLE_FADE = 0.1
_MIN_DRIFT = 0.1  # a step is at most ten times longer than its requests are predicted to take
_MIN_PREDICTED_S = 1e-9


class WorkerRecorder(AdmissionRecorder, Protocol):
    """Records what a worker decides."""

    def stepped(self, reason: Enum, /) -> None:
        """A step begins; why it has no more requests."""


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
        self._queue: RequestQueue[Task] = RequestQueue(limits.aging_s)
        self._works: dict[Ticket, Work] = {}  # calls whose requests are queued
        self._opening = Opening(clock)
        self._drift = Rate(1.0, limits.step_s)  # real seconds for each predicted one
        self._admission = Admission(self._queue, self._drift, limits, recorder, reject)
        self._byte = Rate(_BYTE_S)  # predicted seconds of a batch call for each byte of its message
        self._response = Rate(_ITEM_S)  # seconds for each item of a response
        self._last_drift = 1.0  # of the last step: after a slow step the next one is short
        self._admitted_s = 0.0  # that admitting calls has taken since the last step
        self._step_s = 0.0
        self._single_at = -_LATELY_S  # when a call with one request was queued last
        self._single_s = 0.0  # how long the step of such a call takes alone

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
        """Calls without a reply."""
        return len(self._works) + len(self._opening)

    def admit(self, ticket: Ticket) -> None:
        """Decode, validate, resolve and predict a call; then refuse it at once or queue it."""
        if ticket.is_cancelled:
            self.cancel(ticket)
            return
        now = self._clock()
        work = self._methods[ticket.method](ticket, now)
        if error := self._early_rejection(ticket, now):
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
        drift = max(self._drift(1.0), self._last_drift, _MIN_DRIFT)
        limits = replace(self._limits, step_s=self._limits.step_s / drift)
        step = self._queue.next_step(limits, started, self._entries_s(started) / drift)
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
        for recommender in dict.fromkeys(task.recommender for task in tasks):
            self._run(recommender, [task for task in tasks if task.recommender is recommender])
        self._respond(tasks)
        took_s = self._clock() - started
        self._last_drift = took_s / max(predicted_s, _MIN_PREDICTED_S)
        self._drift.observe(predicted_s, took_s + self._admitted_s)
        self._admitted_s = 0.0

    def _entries_s(self, now: float) -> float:
        """How long batch calls may make a step: about as long as a single call's where there were some lately."""
        if now - self._single_at > _LATELY_S:
            return self._limits.step_s
        return min(self._limits.step_s, max(_MIN_ENTRIES_S, self._single_s))

    def _open_more(self) -> None:
        """Open large messages in turn, for a time; a short one need not wait for the whole of a long one."""
        started = self._clock()
        ends = started + _OPEN_SHARE * self._entries_s(started)
        is_first = True
        while self._opening and (is_first or self._clock() < ends):
            work, is_first = self._opening.pop(), False
            if work.ticket.deadline <= self._clock():
                self._refuse(work, DeadlineExceeded("the deadline passed while the message was read"))
            else:
                self._open(work)
        self._admitted_s += self._clock() - started

    def _open(self, work: Work) -> None:
        """Open a message, or a part of it; once it is open, queue its requests or refuse the call."""
        is_new, error = work.opening is None, cast("Exception | None", None)
        try:
            is_open = self._opening.open_part(work)
            error = self._rejection(work, is_open=is_open) if is_open or is_new else None
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

    def _rejection(self, work: Work, *, is_open: bool) -> SwiftrecError | None:
        """Why a call is not accepted, now that its message, or a first part of it, is open; None if it is."""
        left_s = work.ticket.deadline - self._clock()
        if not is_open:
            load = Load(len(self._opening), 0, self._opening.wait_s)
            return self._admission.judge(load, 0, self._opening.left_s(work), left_s)
        for task in work.tasks:
            task.cost_s += self._response(task.state.response_work)
        tokens, cost_s = sum(task.tokens for task in work.tasks), sum(task.cost_s for task in work.tasks)
        if len(work.tasks) > 1:
            self._byte.observe(len(work.ticket.message), cost_s)
        return self._admission.rejection(len(work.tasks), tokens, cost_s, left_s, len(self._works), self._clock())

    def _early_rejection(self, ticket: Ticket, now: float) -> SwiftrecError | None:
        """Why a call is not accepted before anything of it is decoded; None if it may be."""
        is_large = len(ticket.message) >= _LARGE_BYTES
        cost_s = _EARLY_SHARE * self._byte(len(ticket.message)) if is_large else 0.0
        left_s = ticket.deadline - now
        return self._admission.rejection(2 if is_large else 0, 0, cost_s, left_s, len(self._works), now)

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
        """Write results, send the responses of calls whose last request has run, and learn what that costs."""
        started = self._clock()
        for task in tasks:
            task.work.missing -= 1
            task.work.finished(task)
        self._finish(dict.fromkeys(task.work for task in tasks if not task.work.missing))
        self._response.observe(sum(task.state.response_work for task in tasks), self._clock() - started)

    def _queue_all(self, work: Work) -> None:
        """Queue all requests of a call.

        Those of a batch call have turns at intervals, so that all batch calls leave half of the time to single calls.
        """
        self._works[work.ticket] = work
        if len(work.tasks) == 1:
            self._single_at = self._clock()
            self._single_s += _SINGLE_FADE * (
                self._drift(work.tasks[0].cost_s + work.tasks[0].batch_s) - self._single_s
            )
        batch_calls = sum(len(one.tasks) > 1 for one in self._works.values()) if len(work.tasks) > 1 else 0
        now, lag_s = self._clock(), 0.0  # opening a large batch takes time, too
        for task in work.tasks:
            task.arrival, task.lag_s, task.deadline = now, lag_s, work.ticket.deadline
            task.is_entry = len(work.tasks) > 1
            lag_s += self._drift(task.cost_s) * batch_calls / BATCH_CALLS_SHARE
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

    def _finish(self, works: Iterable[Work]) -> None:
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
