"""A gRPC server with one method at a desk."""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc

from server.api.deadlines import Deadlines
from server.api.desk import Desk
from server.api.edge import Awaited
from server.pipeline.call import Call

PATH = "/test.Service/Ask"
Begin = Callable[[bytes, grpc.ServicerContext], Coroutine[Call, None, bytes]]


class Told(Desk):
    """A desk that says when a call has come, with its request or without."""

    def __init__(self, come: threading.Semaphore, *given: Any, **named: Any) -> None:  # noqa: ANN401
        super().__init__(*given, **named)
        self._come = come

    def submit(self, *work: Any) -> Any:  # type: ignore[override] # noqa: ANN401 (as the desk's own)
        try:
            return super().submit(*work)
        finally:
            self._come.release()


@contextmanager
def served(
    begin: Begin,
    limit: int | None = None,
    silence_s: float = 60.0,
    missed: Callable[[str], None] = lambda _code: None,
    come: threading.Semaphore | None = None,
) -> Iterator[grpc.Channel]:
    """A channel to a gRPC server with one method at a desk that has two threads for large requests."""
    deadlines, threads = Deadlines(), ThreadPoolExecutor(2)
    desk = Told(come or threading.Semaphore(0), threads, 1, deadlines, silence_s=silence_s)
    server = grpc.server(threads, options=[("grpc.so_reuseport", 0)], maximum_concurrent_rpcs=limit)
    handler = grpc.unary_unary_rpc_method_handler(Awaited(begin, desk, without_request=lambda *_: missed))
    server.add_registered_method_handlers("test.Service", {"Ask": handler})  # type: ignore[attr-defined]
    port = server.add_insecure_port("127.0.0.1:0")
    deadlines.start()
    desk.start()
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    server.stop(0).wait()
    desk.stop()
    deadlines.stop()


@contextmanager
def serving(begin: Begin, limit: int | None = None) -> Iterator[grpc.UnaryUnaryMultiCallable[bytes, bytes]]:
    """That one method."""
    with served(begin, limit) as channel:
        yield channel.unary_unary(PATH, None, None)
