"""The bare gRPC servers that ours is compared with: the same reply, no model.

`--front threads` or `aio`; `--hop` has one worker thread make the answers of everything that waits, as a batcher does,
which is what decides between the two fronts.
"""

from __future__ import annotations

import argparse
import asyncio
import queue
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc

from server.pb.swiftrec.v1 import encoder_pb2 as pb
from server.pb.swiftrec.v1 import encoder_pb2_grpc as pb_grpc

_OPTIONS = [("grpc.so_reuseport", 0)]
_DIMENSIONS = 128


def reply() -> pb.EncodeResponse:
    """As long as a real one for one text."""
    return pb.EncodeResponse(
        vectors=bytes(4 * _DIMENSIONS), rows=1, dimensions=_DIMENSIONS, bundle="movielens-quick", version=1
    )


class Worker:
    """One thread that takes everything that waits and answers it."""

    def __init__(self, answer: Callable[[list[object]], None]) -> None:
        self._waiting: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._answer = answer
        threading.Thread(target=self._loop, daemon=True).start()

    def put(self, waiter: object) -> None:
        """Have it answered."""
        self._waiting.put(waiter)

    def _loop(self) -> None:
        while True:
            batch = [self._waiting.get()]
            while not self._waiting.empty():
                batch.append(self._waiting.get())
            self._answer(batch)


class ThreadsEcho(pb_grpc.EncoderServiceServicer):
    """Behind the thread-pool server."""

    def __init__(self, *, hop: bool) -> None:
        self._worker = Worker(self._answer) if hop else None

    @staticmethod
    def _answer(batch: list[object]) -> None:
        for waiter in batch:
            waiter.release()  # type: ignore[attr-defined]

    def Encode(self, request: pb.EncodeRequest, context: grpc.ServicerContext) -> pb.EncodeResponse:
        """Answer."""
        if self._worker:
            gate = threading.Lock()
            gate.acquire()
            self._worker.put(gate)
            gate.acquire(timeout=60)
        return reply()


class AioEcho(pb_grpc.EncoderServiceServicer):
    """Behind the asyncio server."""

    def __init__(self, *, hop: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._worker = Worker(self._answer) if hop else None

    def _answer(self, batch: list[object]) -> None:
        self._loop.call_soon_threadsafe(self._release, batch)

    @staticmethod
    def _release(batch: list[object]) -> None:
        for waiter in batch:
            waiter.set_result(None)  # type: ignore[attr-defined]

    async def Encode(self, request: pb.EncodeRequest, context: object) -> pb.EncodeResponse:
        """Answer."""
        if self._worker:
            waiter = self._loop.create_future()
            self._worker.put(waiter)
            await waiter
        return reply()


def serve_threads(*, hop: bool, threads: int) -> None:
    """Until killed."""
    server = grpc.server(ThreadPoolExecutor(threads), options=_OPTIONS)
    pb_grpc.add_EncoderServiceServicer_to_server(ThreadsEcho(hop=hop), server)
    _ready(server.add_insecure_port("127.0.0.1:0"))
    server.start()
    server.wait_for_termination()


async def serve_aio(*, hop: bool) -> None:
    """Until killed."""
    server = grpc.aio.server(options=_OPTIONS)
    pb_grpc.add_EncoderServiceServicer_to_server(AioEcho(hop=hop), server)
    _ready(server.add_insecure_port("127.0.0.1:0"))
    await server.start()
    await server.wait_for_termination()


def _ready(port: int) -> None:
    sys.stdout.write(f"ready on 127.0.0.1:{port}\n")
    sys.stdout.flush()


def main() -> None:
    """Read the flags and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--front", choices=("threads", "aio"), default="threads")
    parser.add_argument("--hop", action="store_true")
    parser.add_argument("--threads", type=int, default=264)
    flags = parser.parse_args()
    if flags.front == "threads":
        serve_threads(hop=flags.hop, threads=flags.threads)
    else:
        asyncio.run(serve_aio(hop=flags.hop))


if __name__ == "__main__":
    main()
