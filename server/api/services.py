"""The swiftrec.v1 servicers: decode, ask the pipeline, encode."""

from __future__ import annotations

import time
from collections.abc import Sequence

import grpc

from server.api.convert import InputLimits, check_entries, check_text, to_request, to_response
from server.api.status import code_of
from server.errors import InvalidRequest, SwiftrecError
from server.models.bundle import Bundle
from server.pb.swiftrec.v1 import encoder_pb2, encoder_pb2_grpc
from server.pb.swiftrec.v1 import recommender_pb2 as pb
from server.pb.swiftrec.v1 import recommender_pb2_grpc as pb_grpc
from server.pipeline.domain import Call, Recommendation, Request
from server.pipeline.recommender import Recommender

_LONGEST_S = 86_400.0


class Calls:
    """Makes a `Call` from a gRPC context: its deadline (or the default), cancelled when the client goes."""

    def __init__(self, default_timeout_s: float) -> None:
        self._default_timeout_s = default_timeout_s

    def of(self, context: grpc.ServicerContext) -> Call:
        """The call."""
        remaining = context.time_remaining()
        # Without a deadline gRPC answers with centuries.
        seconds = self._default_timeout_s if remaining is None or remaining > _LONGEST_S else remaining
        call = Call(time.monotonic() + seconds)
        context.add_callback(call.cancel)
        return call


class RecommenderServicer(pb_grpc.RecommenderServiceServicer):
    """`swiftrec.v1.RecommenderService`."""

    def __init__(self, recommender: Recommender, bundle: Bundle, limits: InputLimits, calls: Calls) -> None:
        self._recommender, self._limits, self._calls = recommender, limits, calls
        self._name, self._version = bundle.manifest.name, bundle.manifest.version

    def Recommend(self, request: pb.RecommendRequest, context: grpc.ServicerContext) -> pb.RecommendResponse:  # noqa: N802
        """Rank for one request."""
        answer = self._recommender.recommend(to_request(request, self._limits), self._calls.of(context))
        return to_response(answer, self._name, self._version)

    def BatchRecommend(  # noqa: N802
        self, request: pb.BatchRecommendRequest, context: grpc.ServicerContext
    ) -> pb.BatchRecommendResponse:
        """Rank for each request of a list; a bad one is answered with its error."""
        check_entries(len(request.requests), "requests", self._limits)
        checked = [self._check(entry) for entry in request.requests]
        good = [entry for entry in checked if isinstance(entry, Request)]
        answers = iter(self._recommender.recommend_many(good, self._calls.of(context)))
        results = [next(answers) if isinstance(entry, Request) else entry for entry in checked]
        return pb.BatchRecommendResponse(results=self._results(results))

    def _check(self, entry: pb.RecommendRequest) -> Request | SwiftrecError:
        try:
            return to_request(entry, self._limits)
        except SwiftrecError as error:
            return error

    def _results(self, results: Sequence[Recommendation | SwiftrecError]) -> list[pb.BatchRecommendResult]:
        return [
            pb.BatchRecommendResult(error=_entry_error(result))
            if isinstance(result, SwiftrecError)
            else pb.BatchRecommendResult(response=to_response(result, self._name, self._version))
            for result in results
        ]


class EncoderServicer(encoder_pb2_grpc.EncoderServiceServicer):
    """`swiftrec.v1.EncoderService`."""

    def __init__(self, recommender: Recommender, bundle: Bundle, limits: InputLimits, calls: Calls) -> None:
        self._recommender, self._limits, self._calls = recommender, limits, calls
        self._name, self._version = bundle.manifest.name, bundle.manifest.version

    def Encode(  # noqa: N802
        self, request: encoder_pb2.EncodeRequest, context: grpc.ServicerContext
    ) -> encoder_pb2.EncodeResponse:
        """Encode each text."""
        check_entries(len(request.texts), "texts", self._limits)
        texts = [check_text(text, f"texts[{n}]", self._limits) for n, text in enumerate(request.texts)]
        vectors = self._recommender.encode(texts, self._calls.of(context))
        return encoder_pb2.EncodeResponse(
            vectors=vectors.astype("<f4").tobytes(),
            rows=vectors.shape[0],
            dimensions=vectors.shape[1],
            bundle=self._name,
            version=self._version,
        )


def _entry_error(error: SwiftrecError) -> pb.EntryError:
    field = error.field if isinstance(error, InvalidRequest) else ""
    return pb.EntryError(code=code_of(error), message=str(error), field=field)
