"""The methods of swiftrec.v1, as calls of a worker."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np
from numpy.typing import NDArray

from swiftrec.server.errors import InvalidRequest, MessageTooLarge, NotFound, SwiftrecError, internal_error
from swiftrec.server.messages import FLOAT_BYTES, MessageLimits, decode
from swiftrec.server.models.networks import ranker_half
from swiftrec.server.models.registry import Registry
from swiftrec.server.pb.swiftrec.v1 import encoder_pb2
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from swiftrec.server.pipeline.recommender import Recommender
from swiftrec.server.pipeline.request_state import RequestState
from swiftrec.server.status import code_of, sentence
from swiftrec.server.telemetry.metrics import Metrics
from swiftrec.server.ticket import Reply, Ticket
from swiftrec.server.worker.call import Task, WorkerCall
from swiftrec.server.worker.respond import write_response
from swiftrec.server.worker.validate import (
    InputLimits,
    check_batch,
    check_each,
    check_entries,
    check_name,
    check_text,
    to_priority,
    to_request,
    to_version,
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Services:
    """Shared by the methods.

    Args:
        registry: the bundles.
        limits: of requests.
        sizes: of messages.
        metrics: records the time of stages.
    """

    registry: Registry[Recommender]
    limits: InputLimits
    sizes: MessageLimits
    metrics: Metrics


class RecommendCall(WorkerCall):
    """`RecommenderService.Recommend`."""

    def __init__(self, services: Services, ticket: Ticket, arrival: float) -> None:
        super().__init__(ticket, arrival)
        self._services = services

    def prepare(self) -> Iterable[float]:
        """Add the request."""
        self._add(decode(pb.RecommendRequest, self.ticket.message))
        return ()

    def respond(self, now: float) -> bytes:
        """The ranking."""
        message = pb.RecommendResponse()
        self._write(message, now)
        return self._services.sizes.encode(message)

    def _add(self, message: pb.RecommendRequest) -> None:
        request = to_request(message, self._services.limits)
        recommender = self.acquire(self._services.registry.lease(message.bundle, to_version(message.version)))
        self.add(recommender, [recommender.resolve(request)], "ranker", request.priority)

    def _write(self, message: pb.RecommendResponse, now: float) -> None:
        _write(self._services, self.tasks[0], message)
        self.count(self.tasks, now)


class StreamRecommendCall(RecommendCall):
    """One message of `RecommenderService.StreamRecommend`; an error affects only this message."""

    def prepare(self) -> Iterable[float]:
        """Add the request."""
        self._add(decode(pb.StreamRecommendRequest, self.ticket.message).request)
        return ()

    def respond(self, now: float) -> bytes:
        """The ranking, as a message of the stream."""
        message = pb.StreamRecommendResponse()
        self._write(message.result.response, now)
        return self._services.sizes.encode(message)

    def write_error(self, error: SwiftrecError) -> Reply:
        """The error as a message of the stream."""
        message = pb.StreamRecommendResponse()
        _set_error(error, message.result)
        return message.SerializeToString()


class BatchRecommendCall(WorkerCall):
    """`RecommenderService.BatchRecommend`: the error of a request is its result, and affects no other."""

    def __init__(self, services: Services, ticket: Ticket, arrival: float) -> None:
        super().__init__(ticket, arrival)
        self._services = services
        self._entries: list[Task | SwiftrecError] = []
        self._results: dict[Task, bytes | SwiftrecError] = {}
        self._recommenders: dict[tuple[str, int], Recommender] = {}

    def prepare(self) -> Iterator[float]:
        """Add each valid request."""
        message = decode(pb.BatchRecommendRequest, self.ticket.message)
        check_batch(message.requests, self._services.limits)
        for entry in message.requests:
            self._entries.append(self._prepare_entry(entry))
            yield len(self._entries) / len(message.requests)

    def on_task_end(self, task: Task) -> None:
        """Serialise the result of a request now: all results at the end would delay other calls."""
        time.sleep(0)  # release the GIL: gRPC's thread would wait 5 ms for it, twice for a probe
        try:
            message = pb.BatchRecommendResponse()
            _write(self._services, task, message.results.add().response)
            self._results[task] = self._services.sizes.encode(message)
        except SwiftrecError as error:
            self._results[task] = error
        except Exception as failure:  # noqa: BLE001 (affects only this request)
            self._results[task] = internal_error(failure)

    def respond(self, now: float) -> bytes:
        """The result of each request, in order: concatenated messages are one message with all results."""
        results = [self._results[entry] if isinstance(entry, Task) else entry for entry in self._entries]
        for result in results:
            if isinstance(result, MessageTooLarge):
                raise result
        data = b"".join(result if isinstance(result, bytes) else _error_result(result) for result in results)
        self._services.sizes.check_response(len(data))
        self._count(now)
        return data

    def _count(self, now: float) -> None:
        for task in self.tasks:
            if isinstance(self._results[task], bytes):
                self.count([task], now)
            else:
                task.model.statistics.count_failure(now - self.arrival)

    def release(self) -> None:
        """Release the leases and the requests."""
        super().release()
        self._entries, self._results = [], {}

    def _prepare_entry(self, entry: pb.RecommendRequest) -> Task | SwiftrecError:
        """Add a request of the batch; returns its task or its error."""
        try:
            request = to_request(entry, self._services.limits)
            key = entry.bundle, to_version(entry.version)
            if key not in self._recommenders:
                self._recommenders[key] = self.acquire(self._services.registry.lease(*key))
            recommender = self._recommenders[key]
            self.add(recommender, [recommender.resolve(request)], "ranker", request.priority)
        except (InvalidRequest, NotFound) as error:
            return error
        except SwiftrecError:  # affects every request
            raise
        except Exception as failure:  # noqa: BLE001 (affects only this request)
            return internal_error(failure)
        return self.tasks[-1]


class EncodeCall(WorkerCall):
    """`EncoderService.Encode`."""

    is_one_request = True

    def __init__(self, services: Services, ticket: Ticket, arrival: float) -> None:
        super().__init__(ticket, arrival)
        self._services = services

    def prepare(self) -> Iterator[float]:
        """Add a request for each text, so that a call with many texts does not make a step longer."""
        limits, message = self._services.limits, decode(encoder_pb2.EncodeRequest, self.ticket.message)
        check_entries(len(message.texts), "texts", limits)
        texts = list(check_each("texts", message.texts, partial(check_text, field="", limits=limits)))
        priority, version = to_priority(message.priority), to_version(message.version)
        recommender = self.acquire(self._services.registry.lease(check_name(message.bundle, "bundle"), version))
        self._services.sizes.check_response(FLOAT_BYTES * len(texts) * recommender.bundle.manifest.dimensions)
        yield from self.add_texts(recommender, texts, priority)

    def respond(self, now: float) -> bytes:
        """The ranker half of each vector."""
        vectors, manifest = ranker_vectors(self.tasks), self.tasks[0].recommender.bundle.manifest
        message = encoder_pb2.EncodeResponse(
            vectors=vectors.astype("<f4", copy=False).tobytes(),
            rows=vectors.shape[0],
            dimensions=vectors.shape[1],
            bundle=manifest.name,
            version=manifest.version,
        )
        data = self._services.sizes.encode(message)
        self.count(self.tasks, now)
        return data


def recommender_methods(services: Services) -> dict[str, Callable[[Ticket, float], WorkerCall]]:
    """Full name of a method -> constructor of its calls."""
    return {
        "/swiftrec.v1.RecommenderService/Recommend": partial(RecommendCall, services),
        "/swiftrec.v1.RecommenderService/BatchRecommend": partial(BatchRecommendCall, services),
        "/swiftrec.v1.RecommenderService/StreamRecommend": partial(StreamRecommendCall, services),
        "/swiftrec.v1.EncoderService/Encode": partial(EncodeCall, services),
    }


def ranker_vectors(tasks: list[Task]) -> NDArray[np.float32]:
    """The ranker halves of the vectors of texts, one text for each task: float32 [texts, dimensions].

    Raises:
        SwiftrecError: the first error of a text.
    """
    for task in tasks:
        if task.state.error:
            raise task.state.error
    rows = np.array([task.state.vectors[0] for task in tasks], dtype=np.float32)
    return ranker_half(rows, tasks[0].recommender.catalogue.dimensions)


def _write(services: Services, task: Task, message: pb.RecommendResponse) -> int:
    """Write the result of a recommendation; returns the size of its items in bytes.

    Raises:
        SwiftrecError: the recommendation failed.
    """
    result = task.recommender.to_result(cast("RequestState", task.state))
    if isinstance(result, SwiftrecError):
        raise result
    services.metrics.observe_steps(result.timings)
    manifest = task.recommender.bundle.manifest
    return write_response(message, result, manifest.name, manifest.version)


def _error_result(error: SwiftrecError) -> bytes:
    """The serialised result of a failed request of a batch."""
    if error.__cause__:
        _log.error("a request of a batch failed", exc_info=error.__cause__)
    message = pb.BatchRecommendResponse()
    _set_error(error, message.results.add())
    return message.SerializeToString()


def _set_error(error: SwiftrecError, result: pb.BatchRecommendResult) -> None:
    result.error.code, result.error.message = code_of(error), sentence(error)
    if isinstance(error, InvalidRequest):
        result.error.field = error.field[:256]
