"""`swiftrec bench echo`: a bare gRPC server that answers with a reply of the same size and no model.

Encode on a thread pool or on grpc.aio. With a bundle also Recommend and BatchRecommend, on the thread pool: the request
is decoded, the reply (the catalogue's first ten items) serialised for each call.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, Self

import grpc
import grpc.aio
from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from swiftrec.benchmarks.stall import Stall
from swiftrec.server.catalogue.items import ItemTable
from swiftrec.server.domain import Recommendation, Strategy, Timings
from swiftrec.server.models.bundle import find_bundle, load_bundle
from swiftrec.server.pb.swiftrec.v1 import encoder_pb2_grpc, recommender_pb2_grpc
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from swiftrec.server.pb.swiftrec.v1.encoder_pb2 import EncodeRequest, EncodeResponse
from swiftrec.server.worker.respond import to_response

_OPTIONS = (("grpc.so_reuseport", 0),)
_DIMENSIONS = 128
_VECTOR = bytes(4 * _DIMENSIONS)


class EchoSettings(BaseSettings):
    """Answer without a model; prints its address when ready and ends on SIGTERM."""

    model_config = SettingsConfigDict(cli_prog_name="swiftrec bench echo", cli_kebab_case=True, cli_implicit_flags=True)

    front: Literal["threads", "aio"] = Field("threads", description="grpc.server with a thread pool, or grpc.aio")
    workers: int = Field(256, ge=1, description="threads of the pool (front threads)")
    bundle: Path | None = Field(None, description="also answer Recommend, with items of this bundle (front threads)")
    stall_after_s: float = Field(0.0, ge=0, description="seconds from the first call to a stall (front threads)")
    stall_s: float = Field(0.0, ge=0, description="length of the stall in which nothing is answered; 0: none")
    port: int = Field(0, ge=0, le=65_535, description="0 takes a free one")

    @model_validator(mode="after")
    def _threads_only(self) -> Self:
        if self.front == "aio" and (self.bundle or self.stall_s):
            raise ValueError("--bundle and --stall-s are for --front threads")
        return self


def run(settings: EchoSettings) -> int:
    """Serve until SIGTERM."""
    if settings.front == "aio":
        asyncio.run(_serve_aio(settings))
    else:
        _serve_threads(settings)
    return 0


def reply() -> EncodeResponse:
    """A reply as the real server makes it: one vector."""
    return EncodeResponse(vectors=_VECTOR, rows=1, dimensions=_DIMENSIONS, bundle="movielens-quick", version=1)


class _ThreadEcho(encoder_pb2_grpc.EncoderServiceServicer):
    def __init__(self, settings: EchoSettings) -> None:
        self._stall = Stall(settings.stall_after_s, settings.stall_s)

    def Encode(self, _request: EncodeRequest, _context: grpc.ServicerContext) -> EncodeResponse:
        self._stall.wait()
        return reply()


class _AioEcho(encoder_pb2_grpc.EncoderServiceServicer):
    async def Encode(
        self, _request: EncodeRequest, _context: grpc.aio.ServicerContext[EncodeRequest, EncodeResponse]
    ) -> EncodeResponse:
        return reply()


class _RecommendEcho(recommender_pb2_grpc.RecommenderServiceServicer):
    def __init__(self, bundle: Path) -> None:
        self._reply = recommendation(bundle)
        self._result = pb.BatchRecommendResult(response=self._reply)

    def Recommend(self, _request: pb.RecommendRequest, _context: grpc.ServicerContext) -> pb.RecommendResponse:
        return self._reply

    def BatchRecommend(
        self, request: pb.BatchRecommendRequest, _context: grpc.ServicerContext
    ) -> pb.BatchRecommendResponse:
        return pb.BatchRecommendResponse(results=[self._result] * len(request.requests))

    def StreamRecommend(
        self, request_iterator: Iterator[pb.StreamRecommendRequest], _context: grpc.ServicerContext
    ) -> Iterator[pb.StreamRecommendResponse]:
        for _ in request_iterator:
            yield pb.StreamRecommendResponse(result=self._result)


def recommendation(bundle: Path) -> pb.RecommendResponse:
    """A reply as the real server makes it: the first ten items of the catalogue."""
    items = [(item, 1.0 - n / 10) for n, item in enumerate(ItemTable.load(find_bundle(bundle))[:10])]
    timings = Timings(0.1, 1.0, 1.0, 0.1, 2.5)
    facts = load_bundle(bundle).manifest
    return to_response(Recommendation(items, [], Strategy.MODEL, 10, timings), facts.name, facts.version)


def _serve_threads(settings: EchoSettings) -> None:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    server = grpc.server(ThreadPoolExecutor(settings.workers), options=_OPTIONS)
    encoder_pb2_grpc.add_EncoderServiceServicer_to_server(_ThreadEcho(settings), server)
    if settings.bundle:
        recommender_pb2_grpc.add_RecommenderServiceServicer_to_server(_RecommendEcho(settings.bundle), server)
    port = server.add_insecure_port(f"127.0.0.1:{settings.port}")
    server.start()
    _say_ready(port)
    stop.wait()
    server.stop(1).wait()


async def _serve_aio(settings: EchoSettings) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = grpc.aio.server(options=_OPTIONS)
    encoder_pb2_grpc.add_EncoderServiceServicer_to_server(_AioEcho(), server)
    port = server.add_insecure_port(f"127.0.0.1:{settings.port}")
    await server.start()
    _say_ready(port)
    await stop.wait()
    await server.stop(1)


def _say_ready(port: int) -> None:
    sys.stdout.write(f"echo on 127.0.0.1:{port}\n")
    sys.stdout.flush()
