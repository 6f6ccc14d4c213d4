"""The methods of swiftrec.v1: what a worker does for each of their calls."""

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
from swiftrec.server.worker.respond import write_response
from swiftrec.server.worker.validate import (
    InputLimits,
    check_each,
    check_entries,
    check_list,
    check_name,
    check_text,
    to_priority,
    to_request,
    to_version,
)
from swiftrec.server.worker.work import Task, Work

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Services:
    """What methods work with.

    Args:
        registry: the bundles.
        limits: of requests.
        sizes: of messages.
        metrics: where the time of stages is counted.
    """

    registry: Registry[Recommender]
    limits: InputLimits
    sizes: MessageLimits
    metrics: Metrics


class Recommendation(Work):
    """`RecommenderService.Recommend`."""

    def __init__(self, services: Services, ticket: Ticket, arrival: float) -> None:
        super().__init__(ticket, arrival)
        self._services = services

    def open(self) -> Iterable[float]:
        """One request."""
        self._add(decode(pb.RecommendRequest, self.ticket.message))
        return ()

    def respond(self, now: float) -> bytes:
        """The ranking."""
        message = pb.RecommendResponse()
        self._write(message, now)
        return self._services.sizes.encode(message)

    def _add(self, message: pb.RecommendRequest) -> None:
        request = to_request(message, self._services.limits)
        recommender = self.hold(self._services.registry.use(message.bundle, to_version(message.version)))
        self.add(recommender, [recommender.resolve(request)], "ranker", request.priority)

    def _write(self, message: pb.RecommendResponse, now: float) -> None:
        _write(self._services, self.tasks[0], message)
        self.count(self.tasks, now)


class StreamedRecommendation(Recommendation):
    """One message of `RecommenderService.StreamRecommend`; an error concerns its own message only."""

    def open(self) -> Iterable[float]:
        """One request."""
        self._add(decode(pb.StreamRecommendRequest, self.ticket.message).request)
        return ()

    def respond(self, now: float) -> bytes:
        """The ranking, as a message of the stream."""
        message = pb.StreamRecommendResponse()
        self._write(message.result.response, now)
        return self._services.sizes.encode(message)

    def fail(self, error: SwiftrecError) -> Reply:
        """A message of the stream that says it."""
        message = pb.StreamRecommendResponse()
        _refuse(error, message.result)
        return message.SerializeToString()


class BatchRecommendation(Work):
    """`RecommenderService.BatchRecommend`: an error of one request is its own result."""

    def __init__(self, services: Services, ticket: Ticket, arrival: float) -> None:
        super().__init__(ticket, arrival)
        self._services = services
        self._entries: list[Task | SwiftrecError] = []
        self._results: dict[Task, bytes | SwiftrecError] = {}
        self._recommenders: dict[tuple[str, int], Recommender] = {}

    def open(self) -> Iterator[float]:
        """A request for each entry that is valid."""
        message = decode(pb.BatchRecommendRequest, self.ticket.message)
        check_list(message.requests, self._services.limits)
        for entry in message.requests:
            self._entries.append(self._open(entry))
            yield len(self._entries) / len(message.requests)

    def finished(self, task: Task) -> None:
        """Write the result of a request: all of them at the end would keep other calls waiting."""
        time.sleep(0)  # let go of the interpreter: gRPC's thread would wait 5 ms for it, and a probe twice
        try:
            message = pb.BatchRecommendResponse()
            _write(self._services, task, message.results.add().response)
            self._results[task] = self._services.sizes.encode(message)
        except SwiftrecError as error:
            self._results[task] = error
        except Exception as failure:  # noqa: BLE001 (it concerns this request alone)
            self._results[task] = internal_error(failure)

    def respond(self, now: float) -> bytes:
        """A result for each request, in order: messages one after the other are one with all their results."""
        found = [self._results[entry] if isinstance(entry, Task) else entry for entry in self._entries]
        for result in found:
            if isinstance(result, MessageTooLarge):
                raise result
        data = b"".join(result if isinstance(result, bytes) else _refused(result) for result in found)
        self._services.sizes.check_response(len(data))
        self._count(now)
        return data

    def _count(self, now: float) -> None:
        for task in self.tasks:
            if isinstance(self._results[task], bytes):
                self.count([task], now)
            else:
                task.model.statistics.failed(now - self.arrival)

    def release(self) -> None:
        """Let go of the requests, too."""
        super().release()
        self._entries, self._results = [], {}

    def _open(self, entry: pb.RecommendRequest) -> Task | SwiftrecError:
        """A request in the queue, or why there is none."""
        try:
            request = to_request(entry, self._services.limits)
            key = entry.bundle, to_version(entry.version)
            if key not in self._recommenders:
                self._recommenders[key] = self.hold(self._services.registry.use(*key))
            recommender = self._recommenders[key]
            self.add(recommender, [recommender.resolve(request)], "ranker", request.priority)
        except (InvalidRequest, NotFound) as error:
            return error
        except SwiftrecError:  # it concerns every request alike
            raise
        except Exception as failure:  # noqa: BLE001 (it concerns this request alone)
            return internal_error(failure)
        return self.tasks[-1]


class Encoding(Work):
    """`EncoderService.Encode`."""

    is_one_request = True

    def __init__(self, services: Services, ticket: Ticket, arrival: float) -> None:
        super().__init__(ticket, arrival)
        self._services = services

    def open(self) -> Iterator[float]:
        """A request for each text, so that a long list is no longer a step than any other."""
        limits, message = self._services.limits, decode(encoder_pb2.EncodeRequest, self.ticket.message)
        check_entries(len(message.texts), "texts", limits)
        texts = list(check_each("texts", message.texts, partial(check_text, field="", limits=limits)))
        priority, version = to_priority(message.priority), to_version(message.version)
        recommender = self.hold(self._services.registry.use(check_name(message.bundle, "bundle"), version))
        self._services.sizes.check_response(FLOAT_BYTES * len(texts) * recommender.bundle.manifest.dimensions)
        yield from self.add_texts(recommender, texts, priority)

    def respond(self, now: float) -> bytes:
        """The vectors for the ranker."""
        vectors, manifest = vectors_of(self.tasks), self.tasks[0].recommender.bundle.manifest
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


def recommender_methods(services: Services) -> dict[str, Callable[[Ticket, float], Work]]:
    """What makes the work of a call, by the full name of its method."""
    return {
        "/swiftrec.v1.RecommenderService/Recommend": partial(Recommendation, services),
        "/swiftrec.v1.RecommenderService/BatchRecommend": partial(BatchRecommendation, services),
        "/swiftrec.v1.RecommenderService/StreamRecommend": partial(StreamedRecommendation, services),
        "/swiftrec.v1.EncoderService/Encode": partial(Encoding, services),
    }


def vectors_of(tasks: list[Task]) -> NDArray[np.float32]:
    """The vectors for the ranker of texts, one a task, float32 [texts, dimensions].

    Raises:
        SwiftrecError: the first error that a text met.
    """
    for task in tasks:
        if task.state.error:
            raise task.state.error
    rows = np.array([task.state.vectors[0] for task in tasks], dtype=np.float32)
    return ranker_half(rows, tasks[0].recommender.catalogue.dimensions)


def _write(services: Services, task: Task, message: pb.RecommendResponse) -> int:
    """Write the result of a recommendation; the bytes of its items.

    Raises:
        SwiftrecError: what it met.
    """
    answer = task.recommender.answer(cast("RequestState", task.state))
    if isinstance(answer, SwiftrecError):
        raise answer
    services.metrics.observe_steps(answer.timings)
    manifest = task.recommender.bundle.manifest
    return write_response(message, answer, manifest.name, manifest.version)


def _refused(error: SwiftrecError) -> bytes:
    """The result of a request of a batch that has failed."""
    if error.__cause__:
        _log.error("a request of a batch failed", exc_info=error.__cause__)
    message = pb.BatchRecommendResponse()
    _refuse(error, message.results.add())
    return message.SerializeToString()


def _refuse(error: SwiftrecError, result: pb.BatchRecommendResult) -> None:
    result.error.code, result.error.message = code_of(error), sentence(error)
    if isinstance(error, InvalidRequest):
        result.error.field = error.field[:256]
