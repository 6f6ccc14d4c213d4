"""`swiftrec bench echo`: a bare gRPC server that returns a response of the same size without a model.

Encode on a thread pool or on grpc.aio. With a bundle also Recommend and BatchRecommend, on the thread pool: the request
is decoded and the response (the catalogue's first ten items) serialised for each call. A pause, in which nothing is
answered, shows whether a load generator hides it.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar, Literal, Self

import grpc
import grpc.aio
from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

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


class Pause:
    """Holds every call that arrives within it until its end.

    Args:
        after_s: seconds from the first call to its start.
        length_s: its length; 0: no pause.
        clock: seconds, monotonic.
        sleep: seconds.
    """

    def __init__(
        self,
        after_s: float,
        length_s: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._after_s, self._length_s, self._clock, self._sleep = after_s, length_s, clock, sleep
        self._first: float | None = None

    def wait(self) -> None:
        """Return at once, or at the end of the pause."""
        if not self._length_s:
            return
        now = self._clock()
        if self._first is None:
            self._first = now
        start = self._first + self._after_s
        if start <= now < start + self._length_s:
            self._sleep(start + self._length_s - now)


class EchoSettings(BaseSettings):
    """Run a gRPC server without a model, to measure the cost of gRPC alone.

    Use it to find out what a client can do, or how much of a request is gRPC. Prints its address when ready.
    """

    model_config = SettingsConfigDict(cli_prog_name="swiftrec bench echo", cli_kebab_case=True, cli_implicit_flags=True)
    RENAMED: ClassVar = {"stall_after_s": "pause_after_s", "stall_s": "pause_s"}

    front: Literal["threads", "aio"] = Field("threads", description="grpc.server with a thread pool, or grpc.aio")
    workers: int = Field(256, ge=1, description="threads of the pool (front threads)")
    bundle: Path | None = Field(None, description="also serve Recommend, with items of this bundle (front threads)")
    pause_after_s: float = Field(0.0, ge=0, description="time from the first call to a pause (front threads)")
    pause_s: float = Field(0.0, ge=0, description="length of the pause, during which no call is answered; 0: no pause")
    port: int = Field(0, ge=0, le=65_535, description="port; 0 takes a free one")

    @model_validator(mode="after")
    def _threads_only(self) -> Self:
        if self.front == "aio" and (self.bundle or self.pause_s):
            raise ValueError("--bundle and --pause-s need --front threads")
        return self


def run(settings: EchoSettings) -> int:
    """Serve until SIGTERM."""
    if settings.front == "aio":
        asyncio.run(_serve_aio(settings))
    else:
        _serve_threads(settings)
    return 0


def response() -> EncodeResponse:
    """A response as the real server makes it: one vector."""
    return EncodeResponse(vectors=_VECTOR, rows=1, dimensions=_DIMENSIONS, bundle="movielens-quick", version=1)


class _ThreadEcho(encoder_pb2_grpc.EncoderServiceServicer):
    def __init__(self, settings: EchoSettings) -> None:
        self._pause = Pause(settings.pause_after_s, settings.pause_s)

    def Encode(self, _request: EncodeRequest, _context: grpc.ServicerContext) -> EncodeResponse:
        self._pause.wait()
        return response()


class _AioEcho(encoder_pb2_grpc.EncoderServiceServicer):
    async def Encode(
        self, _request: EncodeRequest, _context: grpc.aio.ServicerContext[EncodeRequest, EncodeResponse]
    ) -> EncodeResponse:
        return response()


class _RecommendEcho(recommender_pb2_grpc.RecommenderServiceServicer):
    def __init__(self, bundle: Path) -> None:
        self._response = recommendation(bundle)
        self._result = pb.BatchRecommendResult(response=self._response)

    def Recommend(self, _request: pb.RecommendRequest, _context: grpc.ServicerContext) -> pb.RecommendResponse:
        return self._response

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
    """A response as the real server makes it: the first ten items of the catalogue."""
    items = [(item, 1.0 - n / 10) for n, item in enumerate(ItemTable.load(find_bundle(bundle))[:10])]
    timings = Timings(0.1, 1.0, 1.0, 0.1, 2.5)
    manifest = load_bundle(bundle).manifest
    return to_response(Recommendation(items, [], Strategy.MODEL, 10, timings), manifest.name, manifest.version)


def _serve_threads(settings: EchoSettings) -> None:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    server = grpc.server(ThreadPoolExecutor(settings.workers), options=_OPTIONS)
    encoder_pb2_grpc.add_EncoderServiceServicer_to_server(_ThreadEcho(settings), server)
    if settings.bundle:
        recommender_pb2_grpc.add_RecommenderServiceServicer_to_server(_RecommendEcho(settings.bundle), server)
    port = server.add_insecure_port(f"127.0.0.1:{settings.port}")
    server.start()
    _print_ready(port)
    stop.wait()
    server.stop(1).wait()


async def _serve_aio(settings: EchoSettings) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = grpc.aio.server(options=_OPTIONS)
    encoder_pb2_grpc.add_EncoderServiceServicer_to_server(_AioEcho(), server)
    port = server.add_insecure_port(f"127.0.0.1:{settings.port}")
    await server.start()
    _print_ready(port)
    await stop.wait()
    await server.stop(1)


def _print_ready(port: int) -> None:
    sys.stdout.write(f"echo on 127.0.0.1:{port}\n")
    sys.stdout.flush()
