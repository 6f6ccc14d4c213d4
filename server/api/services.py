"""The swiftrec.v1 servicers: decode, ask the pipeline, encode."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TypeAlias

import grpc

from server.api.calls import Calls
from server.api.convert import (
    InputLimits,
    check_entries,
    check_name,
    check_text,
    each,
    fill,
    to_priority,
    to_request,
    to_version,
)
from server.api.sizes import FLOAT_BYTES, MessageLimits
from server.api.status import code_of, sentence
from server.api.streams import in_order
from server.errors import InvalidRequest, NotFound, SwiftrecError
from server.models.bundle import Manifest
from server.models.registry import Registry
from server.pb.swiftrec.v1 import encoder_pb2, encoder_pb2_grpc
from server.pb.swiftrec.v1 import recommender_pb2 as pb
from server.pb.swiftrec.v1 import recommender_pb2_grpc as pb_grpc
from server.pipeline.call import Call
from server.pipeline.domain import Recommendation, Request
from server.pipeline.engine import Engine
from server.telemetry.metrics import Metrics

_Result: TypeAlias = "tuple[Recommendation, Manifest] | SwiftrecError"


class RecommenderServicer(pb_grpc.RecommenderServiceServicer):
    """`swiftrec.v1.RecommenderService`."""

    def __init__(
        self, registry: Registry[Engine], limits: InputLimits, sizes: MessageLimits, calls: Calls, metrics: Metrics
    ) -> None:
        self._registry, self._limits, self._sizes, self._calls, self._metrics = registry, limits, sizes, calls, metrics

    async def Recommend(  # awaited by the edge
        self, request: pb.RecommendRequest, context: grpc.ServicerContext
    ) -> pb.RecommendResponse:
        """Rank for one request."""
        reply = pb.RecommendResponse()
        await self._one(request, self._calls.of(context).call(), reply)
        return reply

    async def BatchRecommend(  # awaited by the edge
        self, request: pb.BatchRecommendRequest, context: grpc.ServicerContext
    ) -> pb.BatchRecommendResponse:
        """Rank for each request of a list; a bad one is answered with its error."""
        entries = request.requests
        check_entries(len(entries), "requests", self._limits)
        reply = pb.BatchRecommendResponse()
        groups: dict[tuple[str, int], list[tuple[pb.BatchRecommendResult, Request]]] = {}
        for entry in entries:
            result = reply.results.add()
            try:
                checked = self._check(entry)
            except SwiftrecError as error:
                _refuse(error, result)
            else:
                groups.setdefault((entry.bundle, entry.version), []).append((result, checked))
        call = self._calls.of(context).call()  # one end for all of them
        size = 0
        for (bundle, version), members in groups.items():
            answers = await self._many(bundle, version, [request for _, request in members], call)
            for (result, _), answer in zip(members, answers, strict=True):
                if isinstance(answer, SwiftrecError):
                    _refuse(answer, result)
                else:
                    size += self._fill(result.response, *answer)
                    self._sizes.check_response(size)
        return reply

    def StreamRecommend(
        self, request_iterator: Iterator[pb.StreamRecommendRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.StreamRecommendResponse]:
        """Rank for each message of a stream."""
        caller = self._calls.of(context)

        async def answer(message: pb.StreamRecommendRequest) -> pb.StreamRecommendResponse:
            reply = pb.StreamRecommendResponse()
            try:
                await self._one(message.request, caller.call(), reply.result.response)
            except SwiftrecError as error:
                return stream_error(reply, error)
            return reply

        return in_order(request_iterator, answer)

    async def _one(self, request: pb.RecommendRequest, call: Call, reply: pb.RecommendResponse) -> None:
        """Fill the reply, or raise and leave it alone."""
        answer = (await self._many(request.bundle, request.version, [self._check(request)], call))[0]
        if isinstance(answer, SwiftrecError):
            raise answer
        self._fill(reply, *answer)

    def _check(self, request: pb.RecommendRequest) -> Request:
        checked = to_request(request, self._limits)
        to_version(request.version)
        return checked

    async def _many(self, bundle: str, version: int, requests: Sequence[Request], call: Call) -> Sequence[_Result]:
        try:
            with self._registry.use(bundle, version) as engine:
                answers = await engine.recommender.recommend_many(requests, call)
        except NotFound as error:
            return [error] * len(requests)
        facts = engine.bundle.manifest
        return [answer if isinstance(answer, SwiftrecError) else (answer, facts) for answer in answers]

    def _fill(self, reply: pb.RecommendResponse, answer: Recommendation, facts: Manifest) -> int:
        """Fill the reply; return the bytes of its items."""
        self._metrics.observe_steps(answer.timings)
        return fill(reply, answer, facts.name, facts.version)


class EncoderServicer(encoder_pb2_grpc.EncoderServiceServicer):
    """`swiftrec.v1.EncoderService`."""

    def __init__(self, registry: Registry[Engine], limits: InputLimits, sizes: MessageLimits, calls: Calls) -> None:
        self._registry, self._limits, self._sizes, self._calls = registry, limits, sizes, calls

    async def Encode(  # awaited by the edge
        self, request: encoder_pb2.EncodeRequest, context: grpc.ServicerContext
    ) -> encoder_pb2.EncodeResponse:
        """Encode each text."""
        check_entries(len(request.texts), "texts", self._limits)
        texts = list(each("texts", request.texts, partial(check_text, field="", limits=self._limits)))
        priority, version = to_priority(request.priority), to_version(request.version)
        with self._registry.use(check_name(request.bundle, "bundle"), version) as engine:
            self._sizes.check_response(FLOAT_BYTES * len(texts) * engine.bundle.manifest.dimensions)
            vectors = await engine.recommender.encode(texts, self._calls.of(context).call(), priority)
        facts = engine.bundle.manifest
        return encoder_pb2.EncodeResponse(
            vectors=vectors.astype("<f4", copy=False).tobytes(),
            rows=vectors.shape[0],
            dimensions=vectors.shape[1],
            bundle=facts.name,
            version=facts.version,
        )


def stream_error(_response: pb.StreamRecommendResponse, error: SwiftrecError) -> pb.StreamRecommendResponse:
    """The response in the place of another one, which says why that cannot be given."""
    reply = pb.StreamRecommendResponse()
    _refuse(error, reply.result)
    return reply


def _refuse(error: SwiftrecError, entry: pb.BatchRecommendResult) -> None:
    entry.error.code, entry.error.message = code_of(error), sentence(error)
    if isinstance(error, InvalidRequest):
        entry.error.field = error.field[:256]
