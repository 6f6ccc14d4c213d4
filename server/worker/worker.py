"""The worker: admits calls and runs their requests in steps. Has no threads; the time comes from a clock."""

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
from swiftrec.server.worker.call import PreparationQueue, Task, WorkerCall

_log = logging.getLogger(__name__)
_ITEM_S = 2e-6  # initial estimate for an item of a response
_PREPARE_SHARE = 0.5  # of the time of a step, for preparing large messages before it
_BYTE_S = 1e-6  # initial estimate for a byte of a batch call
_LARGE_MESSAGE_BYTES = 2_048  # from which a message counts as a batch call before it is prepared
_EARLY_COST_SHARE = 0.7  # of the cost predicted by size, so that few calls are rejected needlessly
_SINGLE_CALL_WINDOW_S = 0.25  # after a single call, in which others are expected
_MIN_ENTRIES_S = 0.001  # of a step that batch calls share with single calls
_SINGLE_CALL_WEIGHT = 0.1  # of a new observation in the moving average
_MIN_DRIFT = 0.1  # limits the requests of a step to ten times their predicted cost
_MIN_PREDICTED_S = 1e-9


class WorkerRecorder(AdmissionRecorder, Protocol):
    """Records the decisions of a worker."""

    def on_step(self, reason: Enum, /) -> None:
        """A step begins; `reason`: why it has no more requests."""


class Worker:
    """Calls in, replies out. `admit` and `step` must be called by one thread.

    Args:
        methods: full name -> constructor of a call, from its ticket and the time of its arrival.
        limits: of a step and of the queue.
        recorder: records its decisions.
        clock: seconds, monotonic; the clock of the tickets' deadlines.
        reject: the admission rule, which tests replace.
    """

    def __init__(
        self,
        methods: Mapping[str, Callable[[Ticket, float], WorkerCall]],
        limits: Limits,
        *,
        recorder: WorkerRecorder | None = None,
        clock: Callable[[], float] = time.monotonic,
        reject: Reject = reject,
    ) -> None:
        self._methods, self._limits, self._recorder, self._clock = methods, limits, recorder, clock
        self._queue: RequestQueue[Task] = RequestQueue(limits.aging_s)
        self._calls: dict[Ticket, WorkerCall] = {}  # calls whose requests are queued
        self._preparing = PreparationQueue(clock)
        self._drift = Rate(1.0, limits.step_s)  # measured seconds for each predicted second
        self._admission = Admission(self._queue, self._drift, limits, recorder, reject)
        self._byte = Rate(_BYTE_S)  # predicted seconds of a batch call for each byte of its message
        self._response = Rate(_ITEM_S)  # seconds for each item of a response
        self._last_drift = 1.0  # of the last step: after a slow step the next is short
        self._admitted_s = 0.0  # spent on admitting calls since the last step
        self._step_s = 0.0
        self._single_at = -_SINGLE_CALL_WINDOW_S  # when the last call with one request was queued
        self._single_s = 0.0  # mean time of a step with one such call

    @property
    def has_work(self) -> bool:
        """Whether a request is queued or a call is being prepared."""
        return self._queue.waiting.requests > 0 or bool(self._preparing)

    @property
    def load(self) -> Load:
        """The load of the queue."""
        waiting = self._queue.waiting
        return Load(waiting.requests, waiting.tokens, self._drift(waiting.cost_s) + self._preparing.wait_s)

    @property
    def step_s(self) -> float:
        """Predicted time of the current or last step."""
        return self._step_s

    @property
    def calls(self) -> int:
        """Number of calls without a reply."""
        return len(self._calls) + len(self._preparing)

    def admit(self, ticket: Ticket) -> None:
        """Decode, validate and resolve a call and predict its cost; then reject or queue it."""
        if ticket.is_cancelled:
            self.cancel(ticket)
            return
        now = self._clock()
        call = self._methods[ticket.method](ticket, now)
        if error := self._early_rejection(ticket, now):
            self._fail(call, error)
        else:
            self._prepare(call)
        self._admitted_s += self._clock() - now

    def cancel(self, ticket: Ticket) -> None:
        """End a call whose client has disconnected or whose deadline has passed; its queued requests never run."""
        now = self._clock()
        if call := self._withdraw(ticket, "expired" if ticket.deadline <= now else "cancelled"):
            call.count_failed(now)
            call.release()

    def fail_all(self, error: SwiftrecError) -> None:
        """Fail every admitted call."""
        calls, self._calls = [*self._calls.values(), *self._preparing.clear()], {}
        for call in calls:
            self._fail(call, error)

    def step(self) -> None:
        """Continue preparing large messages, then run the most urgent requests as one batch."""
        if self._preparing:
            self._prepare_more()
        started = self._clock()
        drift = max(self._drift(1.0), self._last_drift, _MIN_DRIFT)
        limits = replace(self._limits, step_s=self._limits.step_s / drift)
        step = self._queue.next_step(limits, started, self._entries_s(started) / drift)
        for task in (*step.requests, *step.expired):
            task.model.on_dequeued(task.tokens)
        for task in step.expired:
            self._expire(task)
        tasks = [task for task in step.requests if self._has_caller(task)]
        if not tasks:
            self._admitted_s = 0.0
            return
        if self._recorder:
            self._recorder.on_step(step.reason)
        predicted_s = sum(task.cost_s for task in tasks)
        self._step_s = self._drift(predicted_s)
        for task in tasks:
            task.state.started = started
            task.model.on_started(started - task.call.arrival)
        for recommender in dict.fromkeys(task.recommender for task in tasks):
            self._run(recommender, [task for task in tasks if task.recommender is recommender])
        self._respond(tasks)
        elapsed_s = self._clock() - started
        self._last_drift = elapsed_s / max(predicted_s, _MIN_PREDICTED_S)
        self._drift.observe(predicted_s, elapsed_s + self._admitted_s)
        self._admitted_s = 0.0

    def _entries_s(self, now: float) -> float:
        """The longest step with batch calls: about that of a single call, if there were single calls recently."""
        if now - self._single_at > _SINGLE_CALL_WINDOW_S:
            return self._limits.step_s
        return min(self._limits.step_s, max(_MIN_ENTRIES_S, self._single_s))

    def _prepare_more(self) -> None:
        """Prepare large messages in turn, for a limited time, so that a short one does not wait for a long one."""
        started = self._clock()
        ends = started + _PREPARE_SHARE * self._entries_s(started)
        is_first = True
        while self._preparing and (is_first or self._clock() < ends):
            call, is_first = self._preparing.pop(), False
            if call.ticket.deadline <= self._clock():
                self._fail(call, DeadlineExceeded("the deadline passed while the message was read"))
            else:
                self._prepare(call)
        self._admitted_s += self._clock() - started

    def _prepare(self, call: WorkerCall) -> None:
        """Prepare a call, or a part of it; once it is prepared, queue its requests or reject it."""
        is_new, error = call.preparation is None, cast("Exception | None", None)
        try:
            is_prepared = self._preparing.prepare_part(call)
            error = self._rejection(call, is_prepared=is_prepared) if is_prepared or is_new else None
        except Exception as failure:  # noqa: BLE001 (affects only this call)
            is_prepared, error = True, failure
        if call.ticket.is_cancelled:
            self._preparing.push(call)
            self.cancel(call.ticket)
        elif error:
            self._fail(call, error)
        elif is_prepared:
            self._enqueue(call)
        else:
            self._preparing.push(call)

    def _rejection(self, call: WorkerCall, *, is_prepared: bool) -> SwiftrecError | None:
        """Why a call is rejected after it was prepared, in full or in part; None if it is accepted."""
        left_s = call.ticket.deadline - self._clock()
        if not is_prepared:
            load = Load(len(self._preparing), 0, self._preparing.wait_s)
            return self._admission.judge(load, 0, self._preparing.left_s(call), left_s)
        for task in call.tasks:
            task.cost_s += self._response(task.state.response_work)
        tokens, cost_s = sum(task.tokens for task in call.tasks), sum(task.cost_s for task in call.tasks)
        if len(call.tasks) > 1:
            self._byte.observe(len(call.ticket.message), cost_s)
        return self._admission.rejection(len(call.tasks), tokens, cost_s, left_s, len(self._calls), self._clock())

    def _early_rejection(self, ticket: Ticket, now: float) -> SwiftrecError | None:
        """Why a call is rejected before it is decoded; None if it is not."""
        is_large = len(ticket.message) >= _LARGE_MESSAGE_BYTES
        cost_s = _EARLY_COST_SHARE * self._byte(len(ticket.message)) if is_large else 0.0
        left_s = ticket.deadline - now
        return self._admission.rejection(2 if is_large else 0, 0, cost_s, left_s, len(self._calls), now)

    def _has_caller(self, task: Task) -> bool:
        """Whether the client still waits: the notice of a cancel may be behind this step in the inbox."""
        if task.call.ticket.is_cancelled:
            task.model.on_dropped("cancelled")
            self.cancel(task.call.ticket)
        return not task.call.is_over

    def _run(self, recommender: Recommender, tasks: Sequence[Task]) -> None:
        try:
            recommender.run([task.state for task in tasks])
        except Exception as failure:  # noqa: BLE001 (the errors have it as their cause)
            for task in tasks:
                task.state.error = internal_error(failure)

    def _respond(self, tasks: Sequence[Task]) -> None:
        """Serialise results, send the responses of finished calls, and learn the cost of both."""
        started = self._clock()
        for task in tasks:
            task.call.unfinished -= 1
            task.call.on_task_end(task)
        self._finish(dict.fromkeys(task.call for task in tasks if not task.call.unfinished))
        self._response.observe(sum(task.state.response_work for task in tasks), self._clock() - started)

    def _enqueue(self, call: WorkerCall) -> None:
        """Queue all requests of a call.

        The requests of batch calls have turns at intervals, so that half of the time is left for single calls.
        """
        self._calls[call.ticket] = call
        if len(call.tasks) == 1:
            self._single_at = self._clock()
            self._single_s += _SINGLE_CALL_WEIGHT * (
                self._drift(call.tasks[0].cost_s + call.tasks[0].batch_s) - self._single_s
            )
        batch_calls = sum(len(other.tasks) > 1 for other in self._calls.values()) if len(call.tasks) > 1 else 0
        now, lag_s = self._clock(), 0.0  # preparing a large batch takes time
        for task in call.tasks:
            task.arrival, task.lag_s, task.deadline = now, lag_s, call.ticket.deadline
            task.is_entry = len(call.tasks) > 1
            lag_s += self._drift(task.cost_s) * batch_calls / BATCH_CALLS_SHARE
            self._queue.push(task)
            task.model.on_queued(task.tokens)
        if not call.tasks:
            self._finish([call])

    def _expire(self, task: Task) -> None:
        """Fail the call of an expired request."""
        task.model.on_dropped("expired")
        if call := self._withdraw(task.call.ticket, "expired"):
            self._fail(call, DeadlineExceeded("the deadline passed while the work was queued"))

    def _withdraw(self, ticket: Ticket, reason: str) -> WorkerCall | None:
        """Remove the requests of a call from the queue; returns the call if it has no reply yet."""
        call = self._calls.pop(ticket, None) or self._preparing.remove(ticket)
        for task in call.tasks if call else ():
            if task.is_queued:
                self._queue.remove(task)
                task.model.on_dequeued(task.tokens)
                task.model.on_dropped(reason)
        return call

    def _finish(self, calls: Iterable[WorkerCall]) -> None:
        """Send the responses of calls whose requests have all run."""
        for call in calls:
            if self._calls.pop(call.ticket, None) is None:
                continue
            now = self._clock()
            try:
                call.ticket.check(now)
                reply = call.respond(now)
            except Exception as error:  # noqa: BLE001 (affects only this call)
                self._fail(call, error)
                continue
            call.release()
            call.ticket.deliver(reply)

    def _fail(self, call: WorkerCall, error: Exception) -> None:
        call.count_failed(self._clock())
        call.release()
        call.ticket.deliver(call.error_reply(error))
