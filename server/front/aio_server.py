"""A server over grpc.aio, for a grpcio that lacks the private names that `grpc_adapter` uses.

It has the part of grpc.Server's interface that a front uses, and serves the same handlers. grpc.aio cannot cancel a
call: an answer that its client does not read stays with gRPC, and keeps its place, until the client's deadline passes
or its connection ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import grpc
import grpc.aio

from server.front.aio_context import (
    CANCELLED,
    EOF,
    INTERNAL,
    AioContext,
    Behaviour,
    BlockingContext,
    call_soon,
    read,
    time_left_s,
    write,
)
from server.front.calls import Metadata, Method
from server.front.grpc_adapter import Dispatched
from server.front.methods import Handler
from server.front.outcomes import Refusal

_BEGIN_STOP_S = 1.0
_log = logging.getLogger(__name__)
Find = Callable[[grpc.HandlerCallDetails], "Handler | None"]


class AioCall:
    """One unary call: `server.front.calls.Call`.

    Attributes:
        started: when the call arrived, on the monotonic clock.
        note: data of its method.
        is_cancelled: whether the client did not see the answer: it has cancelled, or its deadline has passed.
        has_half_closed: whether the client has ended its side.
    """

    def __init__(self, context: AioContext, loop: asyncio.AbstractEventLoop) -> None:
        self._context, self._loop = context, loop
        self.started = time.monotonic()
        self.note: Any = None
        self.is_cancelled = self.has_half_closed = False
        self._is_reading = True
        self._claims = [None]  # pop is atomic: the first answer is sent
        self._answer: asyncio.Future[bytes | Refusal] = loop.create_future()
        self._refusing: asyncio.Task[None] | None = None

    @property
    def metadata(self) -> Metadata:
        """What the client sent beside the request."""
        return tuple(self._context.invocation_metadata() or ())

    @property
    def time_left_s(self) -> float:
        """Seconds until the client's deadline; infinite if it set none."""
        return time_left_s(self._context)

    @property
    def code(self) -> str:
        """Name of the code that was set for the response; "OK" if none was."""
        code: grpc.StatusCode | None = self._context.code()
        return code.name if code else "OK"

    def context(self) -> grpc.ServicerContext:
        """For methods that are written against gRPC's own interface."""
        return BlockingContext(self._context, self._loop)

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        """What is sent with the status."""
        self._context.set_trailing_metadata(tuple(metadata))

    def respond(self, message: bytes) -> bool:
        """Send the response, by any thread; whether it was the first answer to the call."""
        return self._settle(message)

    def refuse(self, code: grpc.StatusCode, details: str, metadata: Metadata) -> bool:
        """Send a status, by any thread; whether it was the first answer to the call."""
        return self._settle(Refusal(code, details, tuple(metadata)))

    def abort_transport(self) -> None:
        """End a call that was not answered; grpc.aio cannot end others."""
        if self._settle(CANCELLED):
            self.is_cancelled = True

    async def run(self, method: Method) -> None:
        """From the arrival of the call to the end of its answer."""
        try:
            method.begin(self)
            message = await read(self._context)  # raises what `abort` does if the call is refused meanwhile
            self._is_reading = False
            if message is EOF:
                self.has_half_closed = True
                method.missed(self)
            else:
                method.receive(self, message)
            answer = await self._answer
        except asyncio.CancelledError:
            self.is_cancelled = True
            raise
        except grpc.aio.AbortError:
            raise
        except Exception:  # noqa: BLE001 (it concerns this call alone)
            _log.exception("a call was not taken")
            self._claims.clear()
            answer = INTERNAL
        if self._refusing:
            await self._refusing
        else:
            await self._send(answer)

    async def _send(self, answer: bytes | Refusal) -> None:
        try:
            if isinstance(answer, Refusal):
                await self._context.abort(answer.code, answer.details, answer.trailing_metadata)
            elif not await write(self._context, answer):
                await self._loop.create_future()  # gRPC cancels this coroutine
        except grpc.aio.AbortError:
            raise
        except BaseException:  # the client has gone
            self.is_cancelled = True
            raise

    def _settle(self, answer: bytes | Refusal) -> bool:
        try:
            self._claims.pop()
        except IndexError:
            return False
        call_soon(self._loop, self._set, answer)
        return True

    def _set(self, answer: bytes | Refusal) -> None:
        if self._is_reading and isinstance(answer, Refusal):
            self._refusing = self._loop.create_task(self._refuse_while_reading(answer))
        if not self._answer.done():
            self._answer.set_result(answer)

    async def _refuse_while_reading(self, refusal: Refusal) -> None:
        try:
            await self._send(refusal)
        except Exception:  # noqa: BLE001 (the call has ended, which ends `run`)
            return


class AioServer(grpc.GenericRpcHandler):  # type: ignore[type-arg] # the stub is generic, the class is not
    """Serves handlers that were written for grpc.server, with one event loop in one thread (uvloop's if installed).

    Args:
        threads: run the methods that hold a thread.
        options: of gRPC's core.
        interceptors: as grpc.server takes them.
    """

    def __init__(
        self,
        threads: ThreadPoolExecutor,
        options: Sequence[tuple[str, Any]],
        interceptors: Sequence[grpc.ServerInterceptor[Any, Any]] = (),
    ) -> None:
        self._threads, self._options = threads, options
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
        """Nothing: the same methods come as generic ones, too."""

    def add_insecure_port(self, address: str) -> int:
        """Take a port before the start; its number."""
        return self._opened().add_insecure_port(address)

    def add_secure_port(self, address: str, credentials: grpc.ServerCredentials) -> int:
        """Take a port before the start; its number."""
        return self._opened().add_secure_port(address, credentials)

    def start(self) -> threading.Thread:
        """Take calls; the thread that does, which ends when the server has."""
        self._loop.run_until_complete(self._opened().start())
        self._thread.start()
        return self._thread

    def stop(self, grace_s: float) -> threading.Event:
        """Take no more calls, and cancel those that run after the grace; the event is set when all have ended."""
        if not self._thread.is_alive():
            return self._has_ended
        has_begun = threading.Event()
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._begin_stop, grace_s, has_begun)
            has_begun.wait(_BEGIN_STOP_S)
        return self._has_ended

    def service(self, details: grpc.HandlerCallDetails) -> Handler | None:
        """The handler of a call, for grpc.aio; each call runs in a coroutine."""
        handler = self._find(details)
        if handler is None:
            return None
        if isinstance(handler.unary_unary, Dispatched):
            return grpc.stream_stream_rpc_method_handler(partial(self._answer, handler.unary_unary.method))
        behaviour: Any = handler.stream_stream  # the middleware makes no other
        return grpc.stream_stream_rpc_method_handler(
            partial(self._stream, behaviour), handler.request_deserializer, handler.response_serializer
        )

    def _registered(self, details: grpc.HandlerCallDetails) -> Handler | None:
        found = (handlers.service(details) for handlers in self._handlers)
        return next((handler for handler in found if handler), None)

    async def _answer(self, method: Method, _messages: object, context: AioContext) -> None:
        call = AioCall(context, self._loop)
        context.add_done_callback(lambda _: method.over(call))
        await call.run(method)

    async def _stream(self, behaviour: Behaviour, _messages: object, context: AioContext) -> None:
        call = BlockingContext(context, self._loop)
        context.add_done_callback(call.over)
        await call.run(behaviour, self._threads)

    def _opened(self) -> grpc.aio.Server:
        if self._server is None:
            self._server = self._loop.run_until_complete(self._open())
        return self._server

    async def _open(self) -> grpc.aio.Server:
        """grpc.aio takes the loop that runs."""
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
        self._loop.call_soon(has_begun.set)  # after the first step of the task, which closes the port

    async def _close(self) -> None:
        """Stop the server if it has not stopped, and cancel what calls have left, so that no thread waits for it."""
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
