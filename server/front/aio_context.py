"""A blocking interface to a call of grpc.aio, for handlers that run in threads."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeAlias

import grpc
import grpc.aio

from swiftrec.server.front.calls import Metadata

EOF: Any = grpc.aio.EOF  # type: ignore[attr-defined] # not in the stub
AioContext: TypeAlias = Any  # the stub of grpc.aio.ServicerContext lacks parts


class BlockingContext(grpc.ServicerContext):
    """A context for handlers that hold a thread; iterates over the client's messages after the first.

    Args:
        context: the context of grpc.aio.
        loop: the event loop that reads and sends.
        abort: ends the call with CANCELLED.
    """

    def __init__(self, context: AioContext, loop: asyncio.AbstractEventLoop, abort: Callable[[], None]) -> None:
        self._context, self._loop, self._abort = context, loop, abort
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], None]] = []
        self._is_over = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        """The client's next message.

        Raises:
            StopIteration: the client will send no more messages.
            RpcError: the call has ended.
        """
        if not self.is_active():
            raise grpc.RpcError
        try:
            message = asyncio.run_coroutine_threadsafe(read(self._context), self._loop).result()
        except Exception as error:
            raise grpc.RpcError from error
        if not self.is_active():
            raise grpc.RpcError
        if message is EOF:
            raise StopIteration
        return bytes(message)

    def write(self, response: bytes) -> bool:
        """Send a response and wait until the client receives it; False if it never will.

        Raises:
            RpcError: the call has ended.
        """
        if not self.is_active():
            raise grpc.RpcError
        try:
            return asyncio.run_coroutine_threadsafe(write(self._context, response), self._loop).result()
        except grpc.aio.BaseError as error:
            raise grpc.RpcError from error

    def on_end(self) -> None:
        """Handle the end of the call, as reported by gRPC."""
        with self._lock:
            self._is_over = True
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def is_active(self) -> bool:
        """Whether the call is still open."""
        return not self._is_over

    def time_remaining(self) -> float:
        """Seconds until the client's deadline; infinite if it set none."""
        left_s: float | None = self._context.time_remaining()
        return math.inf if left_s is None else left_s

    def cancel(self) -> None:
        """End the call with CANCELLED."""
        self._abort()

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Call `callback` when the call ends; False if it has already ended."""
        with self._lock:
            if not self._is_over:
                self._callbacks.append(callback)
            return not self._is_over

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """The metadata that the client sent."""
        return tuple(self._context.invocation_metadata() or ())

    def set_trailing_metadata(self, trailing_metadata: Metadata) -> None:
        """Set the metadata that is sent with the status."""
        self._context.set_trailing_metadata(tuple(trailing_metadata))

    def send_initial_metadata(self, initial_metadata: Metadata) -> None:
        """Send the headers before the first response."""
        sending = self._context.send_initial_metadata(tuple(initial_metadata))
        asyncio.run_coroutine_threadsafe(sending, self._loop).result()

    def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        """Set a status and raise an exception, which handlers must not catch."""
        self.set_code(code)
        self.set_details(details)
        raise grpc.aio.AbortError

    def abort_with_status(self, status: grpc.Status) -> NoReturn:
        """Set a status and raise an exception, which handlers must not catch."""
        self.set_trailing_metadata(tuple(status.trailing_metadata or ()))
        self.abort(status.code, status.details)

    def set_code(self, code: grpc.StatusCode) -> None:
        """Set the status code."""
        self._context.set_code(code)

    def set_details(self, details: str) -> None:
        """Set the message of the status."""
        self._context.set_details(details)

    def peer(self) -> str:
        """The address of the client."""
        return str(self._context.peer())

    def peer_identities(self) -> Any:  # noqa: ANN401 (gRPC's)
        """The names in the client's certificate."""
        return self._context.peer_identities()

    def peer_identity_key(self) -> Any:  # noqa: ANN401 (gRPC's)
        """The property of the certificate that holds the names."""
        return self._context.peer_identity_key()

    def auth_context(self) -> Any:  # noqa: ANN401 (gRPC's)
        """The properties of the client's certificate."""
        return self._context.auth_context()


async def read(context: AioContext) -> Any:  # noqa: ANN401 (EOF is a constant)
    """The client's next message, or EOF.

    A read also returns EOF on cancellation, shortly before gRPC cancels the coroutine; a second read distinguishes the
    two cases.
    """
    message = await context.read()
    return await context.read() if message is EOF else message


async def write(context: AioContext, message: bytes) -> bool:
    """Send a response and wait until the client receives it; False if it never will."""
    try:
        await context.write(message)
    except grpc.aio.InternalError:
        return False
    return True
