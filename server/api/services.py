"""The swiftrec.v1 servicers: decode, ask the pipeline, encode."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import grpc

from server.api.calls import Calls
from server.api.convert import (
    InputLimits,
    check_entries,
    check_name,
    check_text,
    to_priority,
    to_request,
    to_response,
    to_version,
)
from server.api.status import code_of, sentence
from server.api.streams import in_order
from server.errors import InvalidRequest, NotFound, SwiftrecError
from server.models.registry import Registry
from server.pb.swiftrec.v1 import encoder_pb2, encoder_pb2_grpc
from server.pb.swiftrec.v1 import recommender_pb2 as pb
from server.pb.swiftrec.v1 import recommender_pb2_grpc as pb_grpc
from server.pipeline.call import Call
from server.pipeline.domain import Recommendation, Request
from server.pipeline.engine import Engine
from server.telemetry.metrics import Metrics

_Result: TypeAlias = "pb.RecommendResponse | SwiftrecError"


class RecommenderServicer(pb_grpc.RecommenderServiceServicer):
    """`swiftrec.v1.RecommenderService`."""

    def __init__(self, registry: Registry[Engine], limits: InputLimits, calls: Calls, metrics: Metrics) -> None:
        self._registry, self._limits, self._calls, self._metrics = registry, limits, calls, metrics

    async def Recommend(  # awaited by the edge
        self, request: pb.RecommendRequest, context: grpc.ServicerContext
    ) -> pb.RecommendResponse:
        """Rank for one request."""
        return await self._one(request, self._calls.of(context).call())

    async def BatchRecommend(  # awaited by the edge
        self, request: pb.BatchRecommendRequest, context: grpc.ServicerContext
    ) -> pb.BatchRecommendResponse:
        """Rank for each request of a list; a bad one is answered with its error."""
        entries = request.requests
        check_entries(len(entries), "requests", self._limits)
        results: list[_Result | None] = [None] * len(entries)
        groups: dict[tuple[str, int], list[tuple[int, Request]]] = {}
        for place, entry in enumerate(entries):
            checked = self._check(entry)
            if isinstance(checked, SwiftrecError):
                results[place] = checked
            else:
                groups.setdefault((entry.bundle, entry.version), []).append((place, checked))
        call = self._calls.of(context).call()  # one end for all of them
        for (bundle, version), members in groups.items():
            answers = await self._many(bundle, version, [request for _, request in members], call)
            for (place, _), answer in zip(members, answers, strict=True):
                results[place] = answer
        reply = pb.BatchRecommendResponse()
        for result in results:
            if result is not None:
                _write(result, reply.results.add())
        return reply

    def StreamRecommend(
        self, request_iterator: Iterator[pb.StreamRecommendRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.StreamRecommendResponse]:
        """Rank for each message of a stream."""
        caller = self._calls.of(context)

        async def answer(message: pb.StreamRecommendRequest) -> pb.StreamRecommendResponse:
            try:
                result: _Result = await self._one(message.request, caller.call())
            except SwiftrecError as error:
                result = error
            reply = pb.StreamRecommendResponse()
            _write(result, reply.result)
            return reply

        return in_order(request_iterator, answer)

    async def _one(self, request: pb.RecommendRequest, call: Call) -> pb.RecommendResponse:
        checked = to_request(request, self._limits)
        answer = (await self._many(request.bundle, to_version(request.version), [checked], call))[0]
        if isinstance(answer, SwiftrecError):
            raise answer
        return answer

    def _check(self, entry: pb.RecommendRequest) -> Request | SwiftrecError:
        try:
            to_version(entry.version)
            return to_request(entry, self._limits)
        except SwiftrecError as error:
            return error

    async def _many(self, bundle: str, version: int, requests: Sequence[Request], call: Call) -> Sequence[_Result]:
        try:
            with self._registry.use(bundle, version) as engine:
                answers = await engine.recommender.recommend_many(requests, call)
        except NotFound as error:
            return [error] * len(requests)
        facts = engine.bundle.manifest
        return [self._reply(answer, facts.name, facts.version) for answer in answers]

    def _reply(self, answer: Recommendation | SwiftrecError, bundle: str, version: int) -> _Result:
        if isinstance(answer, SwiftrecError):
            return answer
        self._metrics.observe_steps(answer.timings)
        return to_response(answer, bundle, version)


class EncoderServicer(encoder_pb2_grpc.EncoderServiceServicer):
    """`swiftrec.v1.EncoderService`."""

    def __init__(self, registry: Registry[Engine], limits: InputLimits, calls: Calls) -> None:
        self._registry, self._limits, self._calls = registry, limits, calls

    async def Encode(  # awaited by the edge
        self, request: encoder_pb2.EncodeRequest, context: grpc.ServicerContext
    ) -> encoder_pb2.EncodeResponse:
        """Encode each text."""
        check_entries(len(request.texts), "texts", self._limits)
        texts = [check_text(text, f"texts[{n}]", self._limits) for n, text in enumerate(request.texts)]
        priority, version = to_priority(request.priority), to_version(request.version)
        with self._registry.use(check_name(request.bundle, "bundle"), version) as engine:
            vectors = await engine.recommender.encode(texts, self._calls.of(context).call(), priority)
        facts = engine.bundle.manifest
        return encoder_pb2.EncodeResponse(
            vectors=vectors.astype("<f4", copy=False).tobytes(),
            rows=vectors.shape[0],
            dimensions=vectors.shape[1],
            bundle=facts.name,
            version=facts.version,
        )


def _write(result: _Result, entry: pb.BatchRecommendResult) -> None:
    if isinstance(result, pb.RecommendResponse):
        entry.response.CopyFrom(result)
        return
    entry.error.code, entry.error.message = code_of(result), sentence(result)
    if isinstance(result, InvalidRequest):
        entry.error.field = result.field[:256]
