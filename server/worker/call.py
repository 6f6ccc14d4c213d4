"""A call of a worker: its requests in the queue, and the response made of their results.

Large messages are prepared in parts, so that other calls run in between.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence

from swiftrec.server.batching.cost_model import Rate
from swiftrec.server.batching.request_queue import QueuedRequest
from swiftrec.server.errors import SwiftrecError, internal_error
from swiftrec.server.models.engines import Lease
from swiftrec.server.pipeline.recommender import Recommender
from swiftrec.server.pipeline.request_state import RequestState, TextState
from swiftrec.server.telemetry.metrics import ModelRecorder
from swiftrec.server.telemetry.traces import add_span
from swiftrec.server.ticket import Reply, Ticket

_log = logging.getLogger(__name__)
_TEXTS_PER_PART = 16  # resolved at once
_PART_S = 0.001  # spent on one message at a time
_BYTE_S = 3e-7  # initial estimate for a byte of a message


class Task(QueuedRequest):
    """One request of a call, in the queue.

    Args:
        call: the call.
        recommender: runs it.
        state: its state in the pipeline.
        model: the recorder of the encoder or of the ranker.
        priority: 1 (most urgent) to 9.
    """

    __slots__ = ("call", "model", "recommender", "state")

    def __init__(
        self, call: WorkerCall, recommender: Recommender, state: TextState, model: ModelRecorder, priority: int
    ) -> None:
        super().__init__(priority)
        self.call, self.recommender, self.state, self.model = call, recommender, state, model
        self.tokens, self.cost_s, self.batch_s = state.tokens, state.cost_s, state.batch_s


class WorkerCall:
    """One call.

    Args:
        ticket: the call as received.
        arrival: when it was admitted, on the clock.

    Attributes:
        tasks: its requests.
        preparation: the running `prepare`; None before it was called.
        prepared_share: the share of the message that is prepared.
        unfinished: number of requests without a result.
        is_over: whether it was released.
    """

    is_one_request = False  # whether its requests count as one in the statistics

    def __init__(self, ticket: Ticket, arrival: float) -> None:
        self.ticket, self.arrival = ticket, arrival
        self.tasks: list[Task] = []
        self.preparation: Iterator[float] | None = None
        self.prepared_share = 0.0
        self.unfinished = 0
        self.is_over = False
        self._leases: list[Lease[Recommender]] = []

    def acquire(self, lease: Lease[Recommender]) -> Recommender:
        """Use a recommender until the call is over."""
        self._leases.append(lease)
        return lease.__enter__()

    def add(self, recommender: Recommender, states: Sequence[TextState], model: str, priority: int) -> None:
        """Add requests to be run by `recommender`; `model` is "encoder" or "ranker"."""
        recorder = recommender.recorder.models[model]
        for state in states:
            state.call, state.arrival = self.ticket, self.arrival
            self.tasks.append(Task(self, recommender, state, recorder, priority))
        self.unfinished = len(self.tasks)

    def add_texts(self, recommender: Recommender, texts: Sequence[str], priority: int) -> Iterator[float]:
        """Add a request for each text; yields the share that is done after each part."""
        for start in range(0, len(texts), _TEXTS_PER_PART):
            states = recommender.resolve_texts(texts[start : start + _TEXTS_PER_PART])
            self.add(recommender, states, "encoder", priority)
            yield len(self.tasks) / len(texts)

    def prepare(self) -> Iterable[float]:
        """Decode, validate and resolve the message; add its requests.

        For a large message this may take a second, so it yields the share that is done after each part.

        Raises:
            SwiftrecError: the call is rejected.
        """
        raise NotImplementedError

    def on_task_end(self, task: Task) -> None:
        """Handle the end of a request; never raises."""

    def respond(self, now: float) -> bytes:
        """The response, after all requests have run.

        Raises:
            SwiftrecError: the call has failed.
        """
        raise NotImplementedError

    def write_error(self, error: SwiftrecError) -> Reply:
        """Encode an error as the reply to a failed call: a message of a stream, or else the error itself."""
        return error

    def error_reply(self, error: Exception) -> Reply:
        """The reply to a failed call; clients see "internal error" instead of an unexpected exception."""
        if not isinstance(error, SwiftrecError):
            error = internal_error(error)
        try:
            reply = self.write_error(error)
        except Exception as failure:  # noqa: BLE001 (the error has it as its cause)
            reply = internal_error(failure)
        is_message = not isinstance(reply, SwiftrecError)  # of a stream: the log line of the call does not show it
        if error.__cause__ and is_message:
            _log.error("a message failed", exc_info=error.__cause__)
        return reply

    def count_failed(self, now: float) -> None:
        """Count the requests of a failed call."""
        for task in self.tasks[:1] if self.is_one_request else self.tasks:
            task.model.statistics.count_failure(now - self.arrival)

    def release(self) -> None:
        """End the call: release its recommenders, and its requests, which refer to it."""
        self.is_over, self.tasks = True, []
        for lease in self._leases:
            lease.__exit__()
        self._leases = []

    def count(self, tasks: Sequence[Task], now: float) -> None:
        """Count requests as one successful request, and record their steps in the trace.

        Recommendations count as cache misses, whether or not the vectors of their texts were cached.
        """
        first, states = tasks[0], [task.state for task in tasks]
        first.model.statistics.count_success(
            now - self.arrival,
            max(0.0, min(state.started for state in states) - self.arrival),
            max(state.compute_s for state in states),
            was_cached=all(state.was_cached and not isinstance(state, RequestState) for state in states),
        )
        self.trace(tasks, now)

    def trace(self, tasks: Sequence[Task], now: float) -> None:
        """Record the steps of requests in the trace, if the call is traced."""
        if self.ticket.spans is not None:
            for task in tasks:
                recorder = task.recommender.recorder
                add_span(self.ticket.spans, recorder.bundle, recorder.version, self.arrival, now, task.state.timings)


class PreparationQueue:
    """Calls whose messages are partly prepared, in the order in which they continue.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._calls: dict[Ticket, WorkerCall] = {}
        self._byte = Rate(_BYTE_S)

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def wait_s(self) -> float:
        """Predicted time until all calls are prepared."""
        return sum(map(self.left_s, self._calls.values()))

    def left_s(self, call: WorkerCall) -> float:
        """Predicted time until a call is prepared."""
        return self._byte(len(call.ticket.message) * (1 - call.prepared_share))

    def prepare_part(self, call: WorkerCall) -> bool:
        """Prepare the first or next part of a call; True if the call is now prepared or cancelled.

        Raises:
            SwiftrecError: the call is rejected.
        """
        started, before = self._clock(), call.prepared_share
        if call.preparation is None:
            call.preparation = iter(call.prepare())
        for share in call.preparation:
            call.prepared_share = share
            if call.ticket.is_cancelled:
                return True
            elapsed_s = self._clock() - started
            if elapsed_s >= _PART_S and share < 1:
                self._byte.observe(len(call.ticket.message) * (share - before), elapsed_s)
                return False
        return True

    def push(self, call: WorkerCall) -> None:
        """Add a call at the end."""
        self._calls[call.ticket] = call

    def pop(self) -> WorkerCall:
        """Remove and return the call that continues next."""
        return self._calls.pop(next(iter(self._calls)))

    def remove(self, ticket: Ticket) -> WorkerCall | None:
        """Remove a call, if it is here."""
        return self._calls.pop(ticket, None)

    def clear(self) -> list[WorkerCall]:
        """Remove all calls."""
        calls, self._calls = list(self._calls.values()), {}
        return calls
