"""A call while a worker has it: its requests in the queue, and the response that is made of their results."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence

from swiftrec.server.batching.request_queue import QueuedRequest
from swiftrec.server.errors import SwiftrecError, internal_error
from swiftrec.server.models.engines import Lease
from swiftrec.server.pipeline.recommender import Recommender
from swiftrec.server.pipeline.request_state import RequestState, TextState
from swiftrec.server.telemetry.metrics import ModelRecorder
from swiftrec.server.telemetry.traces import note
from swiftrec.server.ticket import Reply, Ticket

_log = logging.getLogger(__name__)
_TEXTS = 16  # that are resolved in one go


class Task(QueuedRequest):
    """One request of a call in the queue.

    Args:
        work: the call.
        recommender: answers it.
        state: the request as the pipeline knows it.
        model: records it: that of the encoder or of the ranker.
        priority: 1 (most urgent) to 9.
    """

    __slots__ = ("model", "recommender", "state", "work")

    def __init__(
        self, work: Work, recommender: Recommender, state: TextState, model: ModelRecorder, priority: int
    ) -> None:
        super().__init__(priority)
        self.work, self.recommender, self.state, self.model = work, recommender, state, model
        self.tokens, self.cost_s, self.batch_s = state.tokens, state.cost_s, state.batch_s


class Work:
    """One call.

    Args:
        ticket: the call as it came.
        arrival: when it was admitted, on the clock.

    Attributes:
        tasks: its requests.
        opening: what is left of `open`; None before it was called.
        opened: the share of the message that is open.
        missing: how many of the requests have no result yet.
        is_over: whether it was released.
    """

    is_one_request = False  # whether its requests count as one in the statistics

    def __init__(self, ticket: Ticket, arrival: float) -> None:
        self.ticket, self.arrival = ticket, arrival
        self.tasks: list[Task] = []
        self.opening: Iterator[float] | None = None
        self.opened = 0.0
        self.missing = 0
        self.is_over = False
        self._leases: list[Lease[Recommender]] = []

    def hold(self, lease: Lease[Recommender]) -> Recommender:
        """Use an recommender until the call is over."""
        self._leases.append(lease)
        return lease.__enter__()

    def add(self, recommender: Recommender, states: Sequence[TextState], model: str, priority: int) -> None:
        """Add requests that `recommender` answers; `model` is "encoder" or "ranker"."""
        recorder = recommender.recorder.models[model]
        for state in states:
            state.call, state.arrival = self.ticket, self.arrival
            self.tasks.append(Task(self, recommender, state, recorder, priority))
        self.missing = len(self.tasks)

    def add_texts(self, recommender: Recommender, texts: Sequence[str], priority: int) -> Iterator[float]:
        """Add a request for each text; tells after some of them which share is done."""
        for start in range(0, len(texts), _TEXTS):
            states = recommender.resolve_texts(texts[start : start + _TEXTS])
            self.add(recommender, states, "encoder", priority)
            yield len(self.tasks) / len(texts)

    def open(self) -> Iterable[float]:
        """Decode, validate and resolve the message; add its requests.

        Of a message with many entries this may take a second: it tells after some of them which share is done, and goes
        on when it is asked for the next.

        Raises:
            SwiftrecError: the call is refused.
        """
        raise NotImplementedError

    def finished(self, task: Task) -> None:
        """A request has run; never raises."""

    def respond(self, now: float) -> bytes:
        """The response, once no result is missing.

        Raises:
            SwiftrecError: the call has failed.
        """
        raise NotImplementedError

    def fail(self, error: SwiftrecError) -> Reply:
        """The reply to a call that has failed: the error, or a message of a stream that says it."""
        return error

    def refusal(self, error: Exception) -> Reply:
        """The reply to a call that has failed; clients see "internal error" in place of an unexpected exception."""
        if not isinstance(error, SwiftrecError):
            error = internal_error(error)
        try:
            reply = self.fail(error)
        except Exception as failure:  # noqa: BLE001 (the error has it as its cause)
            reply = internal_error(failure)
        is_message = not isinstance(reply, SwiftrecError)  # of a stream: no status and no log line of the call has it
        if error.__cause__ and is_message:
            _log.error("a message failed", exc_info=error.__cause__)
        return reply

    def failed(self, now: float) -> None:
        """Count a call without a response."""
        for task in self.tasks[:1] if self.is_one_request else self.tasks:
            task.model.statistics.failed(now - self.arrival)

    def release(self) -> None:
        """The call is over: let go of its recommenders, and of its requests, which hold it."""
        self.is_over, self.tasks = True, []
        for lease in self._leases:
            lease.__exit__()
        self._leases = []

    def count(self, tasks: Sequence[Task], now: float) -> None:
        """Count requests that were answered together as one, and note their steps in the trace.

        Recommendations count as cache misses, whether or not the vectors of their texts were cached.
        """
        first, states = tasks[0], [task.state for task in tasks]
        first.model.statistics.succeeded(
            now - self.arrival,
            max(0.0, min(state.started for state in states) - self.arrival),
            max(state.compute_s for state in states),
            was_cached=all(state.was_cached and not isinstance(state, RequestState) for state in states),
        )
        self.trace(tasks, now)

    def trace(self, tasks: Sequence[Task], now: float) -> None:
        """Note the steps of requests in the trace, if the call is traced."""
        if self.ticket.works is not None:
            for task in tasks:
                recorder = task.recommender.recorder
                note(self.ticket.works, recorder.bundle, recorder.version, self.arrival, now, task.state.timings)
