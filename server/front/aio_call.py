"""Calls over grpc.aio: the event loop reads and sends messages; any thread may respond."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import grpc.aio

from swiftrec.server.front.aio_context import EOF, AioContext, BlockingContext, read, write
from swiftrec.server.front.calls import Metadata, Method
from swiftrec.server.front.outcomes import AbortStatus

_INTERNAL = AbortStatus(grpc.StatusCode.INTERNAL, "internal error", ())
_CANCELLED = AbortStatus(grpc.StatusCode.CANCELLED, "the server has cancelled the call", ())
_FINAL_LOOP_TURNS = 4  # before a stream ends with OK: the loop needs them to notice a cancel that has arrived
_log = logging.getLogger(__name__)


class AioCall:
    """One call: `server.front.calls.Call`.

    Attributes:
        started: when the call arrived, on the monotonic clock.
        method_state: data of its method.
        is_cancelled: whether the client did not receive the response: it cancelled, or its deadline passed.
        has_half_closed: whether the client will send no more messages.
    """

    def __init__(self, context: AioContext, loop: asyncio.AbstractEventLoop, method: Method) -> None:
        self._context, self._loop, self._method = context, loop, method
        self._blocking = BlockingContext(context, loop, self.abort_transport)
        self.started = time.monotonic()
        self.method_state: Any = None
        self.is_cancelled = self.has_half_closed = False
        self._is_reading = True
        self._claims = [None]  # pop is atomic: the caller that gets the item ends the call
        self._response: asyncio.Future[bytes | AbortStatus | None] = loop.create_future()
        self._aborting: asyncio.Task[None] | None = None

    @property
    def metadata(self) -> Metadata:
        """The metadata that the client sent."""
        return self._blocking.invocation_metadata()

    @property
    def time_left_s(self) -> float:
        """Seconds until the client's deadline; infinite if it set none."""
        return self._blocking.time_remaining()

    @property
    def code(self) -> str:
        """Name of the status code that was set; "OK" if none was."""
        code: grpc.StatusCode | None = self._context.code()
        return code.name if code else "OK"

    @property
    def messages(self) -> Iterator[bytes]:
        """The messages after the first one; blocks while waiting for the next."""
        return self._blocking

    def context(self) -> grpc.ServicerContext:
        """A context for handlers that use gRPC's own interface."""
        return self._blocking

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        """Set the metadata that is sent with the status."""
        self._context.set_trailing_metadata(tuple(metadata))

    def claim(self) -> bool:
        """Claim the right to end the call; True for the first caller only."""
        try:
            self._claims.pop()
        except IndexError:
            return False
        return True

    def send(self, response: bytes) -> bool:
        """Send a response of a stream and wait until the client receives it; False if it never will."""
        return self._blocking.write(response)

    def respond(self, message: bytes | None) -> None:
        """End the call with OK."""
        _call_soon(self._loop, self._set, message)

    def abort(self, code: grpc.StatusCode, details: str, metadata: Metadata) -> None:
        """End the call with a status."""
        _call_soon(self._loop, self._set, AbortStatus(code, details, tuple(metadata)))

    def abort_transport(self) -> None:
        """Cancel a call that has no response; grpc.aio cannot cancel others."""
        if self.claim():
            self.is_cancelled = True
            _call_soon(self._loop, self._set, _CANCELLED)

    def on_end(self, _context: object) -> None:
        """Handle the end of the call, as reported by gRPC."""
        self._method.on_end(self)
        self._blocking.on_end()

    async def run(self) -> None:
        """Run the call from its arrival to the end of its response."""
        try:
            self._method.on_call(self)
            message = await read(self._context)  # raises like `abort` if the call is aborted meanwhile
            self._is_reading = False
            if message is EOF:
                self.has_half_closed = True
                self._method.on_no_message(self)
            else:
                self._method.on_message(self, message)
            response = await self._response
        except asyncio.CancelledError:
            self.is_cancelled = True
            raise
        except grpc.aio.AbortError:
            raise
        except Exception:  # noqa: BLE001 (affects only this call)
            _log.exception("a call could not be handled")
            self._claims.clear()
            response = _INTERNAL
        if self._aborting:
            await self._aborting
        else:
            await self._send(response)

    async def _send(self, response: bytes | AbortStatus | None) -> None:
        try:
            if isinstance(response, AbortStatus):
                await self._context.abort(response.code, response.details, response.trailing_metadata)
            elif response is None:
                for _ in range(_FINAL_LOOP_TURNS):
                    await asyncio.sleep(0)
            elif not await write(self._context, response):
                await self._loop.create_future()  # gRPC cancels this coroutine
        except grpc.aio.AbortError:
            raise
        except BaseException:  # the client has disconnected
            self.is_cancelled = True
            raise

    def _set(self, response: bytes | AbortStatus | None) -> None:
        if self._is_reading and isinstance(response, AbortStatus):
            self._aborting = self._loop.create_task(self._abort_while_reading(response))
        if not self._response.done():
            self._response.set_result(response)

    async def _abort_while_reading(self, refusal: AbortStatus) -> None:
        try:
            await self._send(refusal)
        except Exception:  # noqa: BLE001 (the call has ended, and `run` with it)
            return


def _call_soon(loop: asyncio.AbstractEventLoop, action: Callable[..., object], *arguments: object) -> None:
    """Call `action` in the event loop, from any thread."""
    try:
        loop.call_soon_threadsafe(action, *arguments)
    except RuntimeError:  # the loop has ended, and every call with it
        return
