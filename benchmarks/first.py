"""The first word with a server: is one there, and does it answer from the bundle that the requests are made of?"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import grpc

from swiftrec.benchmarks.access import PLAIN, Access, Metadata
from swiftrec.benchmarks.workload import Method
from swiftrec.server.models.bundle import MANIFEST, Manifest, find_bundle
from swiftrec.server.pb.swiftrec.v1.recommender_pb2 import (
    BatchRecommendRequest,
    RecommendRequest,
    RecommendResponse,
)
from swiftrec.server.pb.swiftrec.v1.recommender_pb2_grpc import RecommenderServiceStub

_CONNECT_S = 10.0
_LOOK_S = 1.0
_NONE = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAUTHENTICATED}
_START = "start a server there (make serve), or give the address of one that runs"


def wait_ready(channel: grpc.Channel, target: str, access: Access = PLAIN) -> None:
    """Wait until something takes the connection.

    Raises:
        RuntimeError: nothing does, or not with this access.
    """
    try:
        grpc.channel_ready_future(channel).result(_CONNECT_S)
    except grpc.FutureTimeoutError:
        silent = RuntimeError(f"nothing answers at {target}: {_START}")
        raise (access.refused(target) if _is_listening(target) else silent) from None


def _is_listening(target: str) -> bool:
    host, _, port = target.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _LOOK_S):
            return True
    except (OSError, ValueError):
        return False


def no_answer(target: str, error: grpc.RpcError, access: Access = PLAIN) -> RuntimeError:
    """What to say of a first request that failed."""
    if _code(error) is grpc.StatusCode.UNAUTHENTICATED:
        return access.denied(target)
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


def check_source(target: str, bundle: Path, measured: Method, access: Access = PLAIN) -> None:
    """The server at `target` answers from the bundle at `bundle`; a bare one, that never ranks, may be any.

    It is asked by a method that is not `measured`, and for nothing, so that no model runs and neither a recording
    nor a figure has this request in it.

    Raises:
        RuntimeError: nothing answers there, not with this access, or another bundle does.
        BundleError: there is no bundle.
    """
    facts = Manifest.model_validate_json((find_bundle(bundle) / MANIFEST).read_bytes())
    with access.channel(target) as channel:
        wait_ready(channel, target, access)
        try:
            reply = _asked(RecommenderServiceStub(channel), measured, access.metadata())
        except grpc.RpcError as error:
            if _code(error) in _NONE:
                raise no_answer(target, error, access) from None
            return  # it is full, or bare: the measurement itself will tell
    if reply.items:
        check_bundle(target, reply, facts)


def _asked(stub: RecommenderServiceStub, measured: Method, metadata: Metadata) -> RecommendResponse:
    nothing = RecommendRequest()
    if measured != "recommend":
        return stub.Recommend(nothing, timeout=_CONNECT_S, metadata=metadata)
    entries = BatchRecommendRequest(requests=[nothing])
    results = stub.BatchRecommend(entries, timeout=_CONNECT_S, metadata=metadata).results
    return results[0].response if results else RecommendResponse()


def _code(error: Any) -> grpc.StatusCode:  # noqa: ANN401 (gRPC's error has no public type)
    code: grpc.StatusCode = error.code()
    return code
