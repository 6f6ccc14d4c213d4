"""The first word with a server: is one there, and does it answer from the bundle that the requests are made of?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc

from benchmarks.workload import Method
from server.models.bundle import MANIFEST, Manifest, find_bundle
from server.pb.swiftrec.v1.recommender_pb2 import (
    BatchRecommendRequest,
    RecommendRequest,
    RecommendResponse,
)
from server.pb.swiftrec.v1.recommender_pb2_grpc import RecommenderServiceStub

_CONNECT_S = 10.0
_GONE = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
_START = "start a server there (make serve), or give the address of one that runs"


def wait_ready(channel: grpc.Channel, target: str) -> None:
    """Wait until something takes the connection.

    Raises:
        RuntimeError: nothing does.
    """
    try:
        grpc.channel_ready_future(channel).result(_CONNECT_S)
    except grpc.FutureTimeoutError:
        raise RuntimeError(f"nothing answers at {target}: {_START}") from None


def no_answer(target: str, error: grpc.RpcError) -> RuntimeError:
    """What to say of a first request that failed."""
    return RuntimeError(f"no answer at {target} ({getattr(error, 'details', str)()}): {_START}")


def check_bundle(target: str, reply: RecommendResponse, facts: Manifest) -> None:
    """The reply is from the bundle of these facts.

    Raises:
        RuntimeError: it is from another one.
    """
    if (reply.bundle, reply.version) != (facts.name, facts.version):
        raise RuntimeError(
            f"the server at {target} answers from {reply.bundle} version {reply.version}, the texts would come from "
            f"{facts.name} version {facts.version}: give the same --bundle"
        )


def check_source(target: str, bundle: Path, measured: Method) -> None:
    """The server at `target` answers from the bundle at `bundle`; a bare one, that never ranks, may be any.

    It is asked by a method that is not `measured`, and for nothing, so that no model runs and neither a recording
    nor a figure has this request in it.

    Raises:
        RuntimeError: nothing answers there, or another bundle does.
        BundleError: there is no bundle.
    """
    facts = Manifest.model_validate_json((find_bundle(bundle) / MANIFEST).read_bytes())
    with grpc.insecure_channel(target) as channel:
        wait_ready(channel, target)
        try:
            reply = _asked(RecommenderServiceStub(channel), measured)
        except grpc.RpcError as error:
            if _code(error) in _GONE:
                raise no_answer(target, error) from None
            return  # it is full, or bare, or wants a token: the measurement itself will tell
    if reply.items:
        check_bundle(target, reply, facts)


def _asked(stub: RecommenderServiceStub, measured: Method) -> RecommendResponse:
    nothing = RecommendRequest()
    if measured != "recommend":
        return stub.Recommend(nothing, timeout=_CONNECT_S)
    results = stub.BatchRecommend(BatchRecommendRequest(requests=[nothing]), timeout=_CONNECT_S).results
    return results[0].response if results else RecommendResponse()


def _code(error: Any) -> grpc.StatusCode:  # noqa: ANN401 (gRPC's error has no public type)
    code: grpc.StatusCode = error.code()
    return code
