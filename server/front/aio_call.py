"""Calls of grpc.aio: the event loop reads and sends, whichever thread answers."""

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
from swiftrec.server.front.outcomes import Refusal

_INTERNAL = Refusal(grpc.StatusCode.INTERNAL, "internal error", ())
_CANCELLED = Refusal(grpc.StatusCode.CANCELLED, "the server has cancelled the call", ())
_LAST_TURNS = 4  # of the event loop before a stream ends well: a cancel that has arrived takes this long to be seen
_log = logging.getLogger(__name__)


class AioCall:
    """One call: `server.front.calls.Call`.

    Attributes:
        started: when the call arrived, on the monotonic clock.
        note: data of its method.
        is_cancelled: whether the client did not see the answer: it has cancelled, or its deadline has passed.
        has_half_closed: whether the client has ended its side.
    """

    def __init__(self, context: AioContext, loop: asyncio.AbstractEventLoop, method: Method) -> None:
        self._context, self._loop, self._method = context, loop, method
        self._blocking = BlockingContext(context, loop, self.abort_transport)
        self.started = time.monotonic()
        self.note: Any = None
        self.is_cancelled = self.has_half_closed = False
        self._is_reading = True
        self._claims = [None]  # pop is atomic: who has it ends the call
        self._answer: asyncio.Future[bytes | Refusal | None] = loop.create_future()
        self._refusing: asyncio.Task[None] | None = None

    @property
    def metadata(self) -> Metadata:
        """What the client sent beside the request."""
        return self._blocking.invocation_metadata()

    @property
    def time_left_s(self) -> float:
        """Seconds until the client's deadline; infinite if it set none."""
        return self._blocking.time_remaining()

    @property
    def code(self) -> str:
        """Name of the code that was set for the response; "OK" if none was."""
        code: grpc.StatusCode | None = self._context.code()
        return code.name if code else "OK"

    @property
    def messages(self) -> Iterator[bytes]:
        """The messages after the first one; blocks."""
        return self._blocking

    def context(self) -> grpc.ServicerContext:
        """For methods that are written against gRPC's own interface."""
        return self._blocking

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        """What is sent with the status."""
        self._context.set_trailing_metadata(tuple(metadata))

    def claim(self) -> bool:
        """Whether the caller is the first to decide how the call ends."""
        try:
            self._claims.pop()
        except IndexError:
            return False
        return True

    def send(self, response: bytes) -> bool:
        """Send a response of a stream and wait until the client takes it; False if it never will."""
        return self._blocking.write(response)

    def respond(self, message: bytes | None) -> None:
        """End the call well."""
        _call_soon(self._loop, self._set, message)

    def refuse(self, code: grpc.StatusCode, details: str, metadata: Metadata) -> None:
        """End the call with a status."""
        _call_soon(self._loop, self._set, Refusal(code, details, tuple(metadata)))

    def abort_transport(self) -> None:
        """End a call that was not answered; grpc.aio cannot end others."""
        if self.claim():
            self.is_cancelled = True
            _call_soon(self._loop, self._set, _CANCELLED)

    def over(self, _context: object) -> None:
        """The call has ended for gRPC."""
        self._method.over(self)
        self._blocking.over()

    async def run(self) -> None:
        """From the arrival of the call to the end of its answer."""
        try:
            self._method.begin(self)
            message = await read(self._context)  # raises what `abort` does if the call is refused meanwhile
            self._is_reading = False
            if message is EOF:
                self.has_half_closed = True
                self._method.missed(self)
            else:
                self._method.receive(self, message)
            answer = await self._answer
        except asyncio.CancelledError:
            self.is_cancelled = True
            raise
        except grpc.aio.AbortError:
            raise
        except Exception:  # noqa: BLE001 (it concerns this call alone)
            _log.exception("a call was not taken")
            self._claims.clear()
            answer = _INTERNAL
        if self._refusing:
            await self._refusing
        else:
            await self._send(answer)

    async def _send(self, answer: bytes | Refusal | None) -> None:
        try:
            if isinstance(answer, Refusal):
                await self._context.abort(answer.code, answer.details, answer.trailing_metadata)
            elif answer is None:
                for _ in range(_LAST_TURNS):
                    await asyncio.sleep(0)
            elif not await write(self._context, answer):
                await self._loop.create_future()  # gRPC cancels this coroutine
        except grpc.aio.AbortError:
            raise
        except BaseException:  # the client has gone
            self.is_cancelled = True
            raise

    def _set(self, answer: bytes | Refusal | None) -> None:
        if self._is_reading and isinstance(answer, Refusal):
            self._refusing = self._loop.create_task(self._refuse_while_reading(answer))
        if not self._answer.done():
            self._answer.set_result(answer)

    async def _refuse_while_reading(self, refusal: Refusal) -> None:
        try:
            await self._send(refusal)
        except Exception:  # noqa: BLE001 (the call has ended, which ends `run`)
            return


def _call_soon(loop: asyncio.AbstractEventLoop, action: Callable[..., object], *arguments: object) -> None:
    """Call something in the event loop, by any thread."""
    try:
        loop.call_soon_threadsafe(action, *arguments)
    except RuntimeError:  # the loop has ended, and every call with it
        return
