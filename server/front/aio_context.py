"""Calls of grpc.aio for methods that hold a thread, as streams do; the event loop reads and sends."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeAlias

import grpc
import grpc.aio

from server.front.calls import CancellableContext, Metadata
from server.front.outcomes import Refusal

EOF: Any = grpc.aio.EOF  # type: ignore[attr-defined] # not in the stub
INTERNAL = Refusal(grpc.StatusCode.INTERNAL, "internal error", ())
CANCELLED = Refusal(grpc.StatusCode.CANCELLED, "the server has cancelled the call", ())
_LAST_TURNS = 4  # of the event loop before a stream ends well: a cancel that has arrived takes this long to be seen
_log = logging.getLogger(__name__)
AioContext: TypeAlias = Any  # the stub of grpc.aio.ServicerContext lacks parts
Behaviour: TypeAlias = "Callable[[Iterator[Any], grpc.ServicerContext], Iterator[Any]]"


class BlockingContext(CancellableContext):
    """A context for methods that hold a thread, and the messages of its client; the event loop reads and sends."""

    def __init__(self, context: AioContext, loop: asyncio.AbstractEventLoop) -> None:
        self._context, self._loop = context, loop
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], None]] = []
        self._is_over = self._is_lost = self.is_cancelled = False
        self._status: Refusal | None = None
        self._ending: asyncio.Future[Refusal | None] = loop.create_future()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:  # noqa: ANN401 (what the method's deserialiser makes)
        """The client's next message.

        Raises:
            StopIteration: the client has ended its side.
            RpcError: the call has ended.
        """
        if not self.is_active():
            raise grpc.RpcError
        try:
            message = asyncio.run_coroutine_threadsafe(read(self._context), self._loop).result()
        except Exception as error:
            if self.is_active():  # the message cannot be deserialised
                raise
            raise grpc.RpcError from error
        if message is not EOF:
            return message
        if self.is_active():
            raise StopIteration
        raise grpc.RpcError

    def write(self, response: Any) -> None:  # noqa: ANN401 (what the method's serialiser takes)
        """Send a response, and wait until the client takes it.

        Raises:
            RpcError: the call has ended.
        """
        if not self.is_active():
            raise grpc.RpcError
        try:
            is_taken = asyncio.run_coroutine_threadsafe(write(self._context, response), self._loop).result()
        except grpc.aio.BaseError as error:
            raise grpc.RpcError from error
        if not is_taken:
            self._is_lost = True
            raise grpc.RpcError

    async def run(self, behaviour: Behaviour, threads: concurrent.futures.Executor) -> None:
        """Answer a stream from its arrival to its end, in a thread of the pool."""
        threads.submit(self._answer, behaviour)
        try:
            status = await self._ending
            if status:
                await self._context.abort(status.code, status.details, status.trailing_metadata)
            for _ in range(_LAST_TURNS):
                await asyncio.sleep(0)
        except grpc.aio.AbortError:
            raise
        except BaseException:  # the client has gone
            self.is_cancelled = True
            raise

    def _answer(self, behaviour: Behaviour) -> None:
        """Send the responses of a stream; holds the thread until it ends."""
        status: Refusal | None = None
        try:
            for response in behaviour(self, self):
                self.write(response)
        except Exception:  # noqa: BLE001 (it concerns this call alone)
            status = self._status or INTERNAL
            if self._status is None and self.is_active():
                _log.exception("a stream was not answered")
        if not self._is_lost:  # otherwise gRPC cancels the coroutine
            call_soon(self._loop, self._end, status)

    def over(self, _context: object = None) -> None:
        """The call has ended for gRPC."""
        with self._lock:
            self._is_over = True
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def is_active(self) -> bool:
        """Whether the call has not ended."""
        return not self._is_over and not self.is_cancelled

    def time_remaining(self) -> float:
        """Seconds until the client's deadline; infinite if it set none."""
        return time_left_s(self._context)

    def cancel(self) -> None:
        """End the call with CANCELLED."""
        self.is_cancelled = True
        call_soon(self._loop, self._end, CANCELLED)

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Call something when the call has ended; False if it has."""
        with self._lock:
            if not self._is_over:
                self._callbacks.append(callback)
            return not self._is_over

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """What the client sent beside the request."""
        return tuple(self._context.invocation_metadata() or ())

    def set_trailing_metadata(self, trailing_metadata: Metadata) -> None:
        """What is sent with the status."""
        self._context.set_trailing_metadata(tuple(trailing_metadata))

    def send_initial_metadata(self, initial_metadata: Metadata) -> None:
        """Send the headers before the first response."""
        sending = self._context.send_initial_metadata(tuple(initial_metadata))
        asyncio.run_coroutine_threadsafe(sending, self._loop).result()

    def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        """End the call with a status; raises what a method must not catch."""
        self.abort_with_status(Refusal(code, details, ()))

    def abort_with_status(self, status: grpc.Status) -> NoReturn:
        """End the call with a status; raises what a method must not catch."""
        self._status = Refusal(status.code, status.details, tuple(status.trailing_metadata or ()))
        raise grpc.aio.AbortError

    def set_code(self, code: grpc.StatusCode) -> None:
        """Code of the status."""
        self._context.set_code(code)

    def set_details(self, details: str) -> None:
        """Sentence of the status."""
        self._context.set_details(details)

    def peer(self) -> str:
        """Address of the client."""
        return str(self._context.peer())

    def peer_identities(self) -> Any:  # noqa: ANN401 (gRPC's)
        """Names in the client's certificate."""
        return self._context.peer_identities()

    def peer_identity_key(self) -> Any:  # noqa: ANN401 (gRPC's)
        """Which property of the certificate has the names."""
        return self._context.peer_identity_key()

    def auth_context(self) -> Any:  # noqa: ANN401 (gRPC's)
        """Properties of the client's certificate."""
        return self._context.auth_context()

    def _end(self, status: Refusal | None) -> None:
        if not self._ending.done():
            self._ending.set_result(status)


async def read(context: AioContext) -> Any:  # noqa: ANN401 (what the method's deserialiser makes)
    """The client's next message, or EOF.

    A call that is cancelled reads EOF as well, just before gRPC cancels the coroutine; by a second read it has.
    """
    message = await context.read()
    return await context.read() if message is EOF else message


async def write(context: AioContext, message: Any) -> bool:  # noqa: ANN401 (what the method's serialiser takes)
    """Send a response, and wait until the client takes it; False if it never will."""
    try:
        await context.write(message)
    except grpc.aio.InternalError:
        return False
    return True


def time_left_s(context: AioContext) -> float:
    """Seconds until the client's deadline; infinite if it set none."""
    left_s: float | None = context.time_remaining()
    return math.inf if left_s is None else left_s


def call_soon(loop: asyncio.AbstractEventLoop, action: Callable[..., object], *arguments: object) -> None:
    """Call something in the event loop, by any thread."""
    try:
        loop.call_soon_threadsafe(action, *arguments)
    except RuntimeError:  # the loop has ended, and every call with it
        return
