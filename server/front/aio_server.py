"""A server over grpc.aio, for versions of grpcio without the private names that `grpc_adapter` uses.

It implements the part of grpc.Server's interface that the front uses, and serves the same handlers. grpc.aio cannot
cancel a call: a response that the client does not read stays in gRPC and keeps its slot until the client's deadline
passes or its connection ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import grpc
import grpc.aio

from swiftrec.server.front.aio_call import AioCall
from swiftrec.server.front.aio_context import AioContext
from swiftrec.server.front.calls import Method
from swiftrec.server.front.grpc_adapter import DispatchedMethod
from swiftrec.server.front.methods import Handler

_BEGIN_STOP_TIMEOUT_S = 1.0
_log = logging.getLogger(__name__)
Find = Callable[[grpc.HandlerCallDetails], "Handler | None"]


class AioServer(grpc.GenericRpcHandler):  # type: ignore[type-arg] # the stub is generic, the class is not
    """Serves handlers written for grpc.server, with one event loop in one thread (uvloop's if installed).

    Args:
        options: of gRPC's core.
        interceptors: as grpc.server takes them.
    """

    def __init__(
        self,
        options: Sequence[tuple[str, Any]],
        interceptors: Sequence[grpc.ServerInterceptor[Any, Any]] = (),
    ) -> None:
        self._options = options
        self._handlers: list[grpc.GenericRpcHandler[Any, Any]] = []
        self._find: Find = self._registered
        for interceptor in reversed(interceptors):
            self._find = partial(interceptor.intercept_service, self._find)
        self._loop = new_loop()
        self._server: grpc.aio.Server | None = None
        self._thread = threading.Thread(target=self._run, name="gRPC event loop", daemon=True)
        self._has_ended = threading.Event()
        self._stops: list[asyncio.Task[None]] = []  # a loop itself holds its tasks weakly

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler[Any, Any]]) -> None:
        """Serve these methods."""
        self._handlers.extend(handlers)

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Handler]) -> None:
        """Do nothing: the same methods are also registered as generic handlers."""

    def add_insecure_port(self, address: str) -> int:
        """Bind a port before the start; returns its number."""
        return self._opened().add_insecure_port(address)

    def add_secure_port(self, address: str, credentials: grpc.ServerCredentials) -> int:
        """Bind a port before the start; returns its number."""
        return self._opened().add_secure_port(address, credentials)

    def start(self) -> threading.Thread:
        """Accept calls; returns the thread of the event loop, which ends with the server."""
        self._loop.run_until_complete(self._opened().start())
        self._thread.start()
        return self._thread

    def stop(self, grace_s: float) -> threading.Event:
        """Accept no more calls, and cancel those that run after the grace; the event is set when all have ended."""
        if not self._thread.is_alive():
            return self._has_ended
        has_begun = threading.Event()
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._begin_stop, grace_s, has_begun)
            has_begun.wait(_BEGIN_STOP_TIMEOUT_S)
        return self._has_ended

    def service(self, details: grpc.HandlerCallDetails) -> Handler | None:
        """The handler of a call, which grpc.aio runs in a coroutine."""
        handler = self._find(details)
        if handler is None:
            return None
        behaviour: Any = handler.unary_unary or handler.stream_stream
        dispatched: DispatchedMethod = behaviour  # the middleware makes no other
        return grpc.stream_stream_rpc_method_handler(partial(self._run_call, dispatched.method))

    def _registered(self, details: grpc.HandlerCallDetails) -> Handler | None:
        candidates = (handlers.service(details) for handlers in self._handlers)
        return next((handler for handler in candidates if handler), None)

    async def _run_call(self, method: Method, _messages: object, context: AioContext) -> None:
        call = AioCall(context, self._loop, method)
        context.add_done_callback(call.on_end)
        await call.run()

    def _opened(self) -> grpc.aio.Server:
        if self._server is None:
            self._server = self._loop.run_until_complete(self._open())
        return self._server

    async def _open(self) -> grpc.aio.Server:
        """Open the server within the loop, since grpc.aio uses the running loop."""
        return grpc.aio.server(handlers=(self,), options=self._options)

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._opened().wait_for_termination())
        finally:
            self._loop.run_until_complete(self._close())
            self._loop.close()
            self._has_ended.set()

    def _begin_stop(self, grace_s: float, has_begun: threading.Event) -> None:
        self._stops.append(self._loop.create_task(self._opened().stop(grace_s)))
        self._loop.call_soon(has_begun.set)  # after the task has closed the port

    async def _close(self) -> None:
        """Stop the server if it has not stopped, and cancel the remaining tasks, so that no thread waits for them."""
        await self._opened().stop(None)
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)


def new_loop() -> asyncio.AbstractEventLoop:
    """An event loop: uvloop's, if it is installed."""
    try:
        uvloop: Any = importlib.import_module("uvloop")
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
