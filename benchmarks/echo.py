"""`python -m benchmarks echo`: a bare gRPC server that answers Encode with a reply of the same size and no model.

Two fronts (thread pool, grpc.aio), each with or without a hop: the answer is made by one worker thread that takes all
that waits as a batch and hands the results back, as a batcher does.
"""

from __future__ import annotations

import asyncio
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, Literal, TypeVar

import grpc
import grpc.aio
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from server.pb.swiftrec.v1 import encoder_pb2_grpc
from server.pb.swiftrec.v1.encoder_pb2 import EncodeRequest, EncodeResponse

_OPTIONS = (("grpc.so_reuseport", 0),)
_DIMENSIONS = 128
_VECTOR = bytes(4 * _DIMENSIONS)
W = TypeVar("W")


class EchoSettings(BaseSettings):
    """Answer Encode with zeros, without a model; prints its address when ready and ends on SIGTERM."""

    model_config = SettingsConfigDict(
        cli_prog_name="python -m benchmarks echo", cli_kebab_case=True, cli_implicit_flags=True
    )

    front: Literal["threads", "aio"] = Field("threads", description="grpc.server with a thread pool, or grpc.aio")
    hop: bool = Field(False, description="make the answers in one worker thread, a batch at a time")
    service_ms: float = Field(0.0, ge=0, description="time that the worker takes for each batch (with --hop)")
    workers: int = Field(256, ge=1, description="threads of the pool (front threads)")
    port: int = Field(0, ge=0, le=65_535, description="0 takes a free one")


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

    def Encode(self, _request: EncodeRequest, _context: grpc.ServicerContext) -> EncodeResponse:
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


def _serve_threads(settings: EchoSettings) -> None:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    server = grpc.server(ThreadPoolExecutor(settings.workers), options=_OPTIONS)
    encoder_pb2_grpc.add_EncoderServiceServicer_to_server(_ThreadEcho(settings), server)
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
