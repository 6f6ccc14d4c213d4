"""`python -m benchmarks echo`: a bare gRPC server that answers with a reply of the same size and no model.

Encode on two fronts (thread pool, grpc.aio), each with or without a hop: the answer is made by one worker thread that
takes all that waits as a batch and hands the results back, as a batcher does. With a bundle also Recommend and
BatchRecommend, on the thread pool: the request is decoded, the reply (the catalogue's first ten items) serialised anew.
"""

from __future__ import annotations

import asyncio
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Generic, Literal, Self, TypeVar

import grpc
import grpc.aio
from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from benchmarks.stall import Stall
from server.catalogue.items import ItemTable
from server.domain import Recommendation, Strategy, Timings
from server.models.bundle import find_bundle, load_bundle
from server.pb.swiftrec.v1 import encoder_pb2_grpc, recommender_pb2_grpc
from server.pb.swiftrec.v1 import recommender_pb2 as pb
from server.pb.swiftrec.v1.encoder_pb2 import EncodeRequest, EncodeResponse
from server.worker.respond import to_response

_OPTIONS = (("grpc.so_reuseport", 0),)
_DIMENSIONS = 128
_VECTOR = bytes(4 * _DIMENSIONS)
W = TypeVar("W")


class EchoSettings(BaseSettings):
    """Answer without a model; prints its address when ready and ends on SIGTERM."""

    model_config = SettingsConfigDict(
        cli_prog_name="python -m benchmarks echo", cli_kebab_case=True, cli_implicit_flags=True
    )

    front: Literal["threads", "aio"] = Field("threads", description="grpc.server with a thread pool, or grpc.aio")
    hop: bool = Field(False, description="make the answers in one worker thread, a batch at a time")
    service_ms: float = Field(0.0, ge=0, description="time that the worker takes for each batch (with --hop)")
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


class Worker(Generic[W]):
    """One daemon thread that takes everything that waits and hands a batch of waiters back with their replies."""

    def __init__(self, hand_back: Callable[[list[tuple[W, EncodeResponse]]], None], service_s: float) -> None:
        self._hand_back, self._service_s = hand_back, service_s
        self._waiting: queue.SimpleQueue[W] = queue.SimpleQueue()
        self.submit = self._waiting.put
        threading.Thread(target=self._loop, name="worker", daemon=True).start()

    def _loop(self) -> None:
        while True:
            batch = [self._waiting.get()]
            batch += [self._waiting.get_nowait() for _ in range(self._waiting.qsize())]  # this thread alone takes
            if self._service_s:
                time.sleep(self._service_s)
            self._hand_back([(waiter, reply()) for waiter in batch])


class _Slot:
    """Where a blocked handler finds its reply."""

    __slots__ = ("answer", "lock")

    def __init__(self) -> None:
        self.answer: EncodeResponse | None = None
        self.lock = threading.Lock()
        self.lock.acquire()


class _ThreadEcho(encoder_pb2_grpc.EncoderServiceServicer):
    def __init__(self, settings: EchoSettings) -> None:
        self._worker: Worker[_Slot] | None = Worker(_release, settings.service_ms / 1e3) if settings.hop else None
        self._stall = Stall(settings.stall_after_s, settings.stall_s)

    def Encode(self, _request: EncodeRequest, _context: grpc.ServicerContext) -> EncodeResponse:
        self._stall.wait()
        if self._worker is None:
            return reply()
        slot = _Slot()
        self._worker.submit(slot)
        slot.lock.acquire()
        return slot.answer or reply()


def _release(batch: list[tuple[_Slot, EncodeResponse]]) -> None:
    for slot, answer in batch:
        slot.answer = answer
        slot.lock.release()


class _AioEcho(encoder_pb2_grpc.EncoderServiceServicer):
    def __init__(self, settings: EchoSettings) -> None:
        self._loop = asyncio.get_running_loop()
        self._worker: Worker[asyncio.Future[EncodeResponse]] | None = (
            Worker(self._hand_back, settings.service_ms / 1e3) if settings.hop else None
        )

    async def Encode(
        self, _request: EncodeRequest, _context: grpc.aio.ServicerContext[EncodeRequest, EncodeResponse]
    ) -> EncodeResponse:
        if self._worker is None:
            return reply()
        future: asyncio.Future[EncodeResponse] = self._loop.create_future()
        self._worker.submit(future)
        return await future

    def _hand_back(self, batch: list[tuple[asyncio.Future[EncodeResponse], EncodeResponse]]) -> None:
        self._loop.call_soon_threadsafe(_resolve, batch)


def _resolve(batch: list[tuple[asyncio.Future[EncodeResponse], EncodeResponse]]) -> None:
    for future, answer in batch:
        if not future.done():
            future.set_result(answer)


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
    encoder_pb2_grpc.add_EncoderServiceServicer_to_server(_AioEcho(settings), server)
    port = server.add_insecure_port(f"127.0.0.1:{settings.port}")
    await server.start()
    _say_ready(port)
    await stop.wait()
    await server.stop(1)


def _say_ready(port: int) -> None:
    sys.stdout.write(f"echo on 127.0.0.1:{port}\n")
    sys.stdout.flush()
