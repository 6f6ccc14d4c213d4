"""Streaming methods: their calls hold a thread from the first message on."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from itertools import chain
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from swiftrec.server.errors import Cancelled, InvalidRequest, RequestMissing
from swiftrec.server.front.calls import Call
from swiftrec.server.front.front import Front
from swiftrec.server.front.limits import Arrivals, BoundedCalls, ConcurrencyLimiter
from swiftrec.server.front.methods import Handler
from swiftrec.server.front.outcomes import CallRecord
from swiftrec.server.front.streams import IdleTimeout, TimedMessages, map_ordered
from swiftrec.server.front.unary_methods import CallState, MethodBase
from swiftrec.server.front.waits import Exchange
from swiftrec.server.ticket import Reply

_REPLACED = "Exceeds maximum queue size: the call was replaced by newer calls of this method"


class StreamMethod(MethodBase):
    """Base of methods whose calls hold a thread from their first message on."""

    @property
    def idle_timeout(self) -> IdleTimeout:
        """The timeout between two messages."""
        return IdleTimeout(self._front.timers, self._front.next_message_timeout_s)

    def on_no_message(self, call: Call) -> None:
        """No message will arrive: the client has half-closed, cancelled or disconnected."""
        self._arrivals.remove(call)
        if call.method_state.end_wait() and call.has_half_closed:
            self._run(call, None)

    def _handle(self, call: Call, state: CallState, message: bytes | None) -> None:
        first = () if message is None else (message,)
        self._front.threads.submit(self._call_handler, call, state, first)

    def _call_handler(self, call: Call, state: CallState, first: tuple[bytes, ...]) -> None:
        """Send the responses; occupies the thread until the stream ends."""
        try:
            with closing(self._responses(call, state.record, chain(first, call.messages))) as responses:
                if all(self._send(call, response) for response in responses):
                    self._respond(call, state, None)
        except grpc.RpcError:  # raised by reading the next message after the client has disconnected
            self.abort(call, Cancelled("the client has disconnected"))
        except Exception as error:  # noqa: BLE001 (mapped to a status, whatever it is)
            self.abort(call, error)

    def _send(self, call: Call, response: bytes) -> bool:
        """Send a response; the call is cancelled if the client does not read it in time."""
        number = self._front.unsent.add(len(response), call.abort_transport)
        try:
            return call.send(response)
        finally:
            self._front.unsent.remove(number)

    def _responses(self, call: Call, record: CallRecord, messages: Iterator[bytes]) -> Generator[bytes, None, None]:
        raise NotImplementedError


class WorkerStream(StreamMethod):
    """A stream whose messages the worker handles."""

    def _responses(self, call: Call, record: CallRecord, messages: Iterator[bytes]) -> Generator[bytes, None, None]:
        front = self._front

        def send(message: bytes, on_reply: Callable[[Reply], None]) -> Exchange:
            front.sizes.check_request(len(message))
            front.unsent.check()
            return front.exchanges.send(self.name, message, call.time_left_s, on_reply, record.spans)

        return map_ordered(messages, send, front.readers, self.idle_timeout, call.context().add_callback, front.unsent)


class LocalStream(StreamMethod):
    """A method that is handled here: unary or streaming, called as a bidirectional stream.

    Args:
        front: shared by the methods.
        name: full name.
        limiter: limits the calls whose first message has arrived.
        arrivals: limits the other calls.
        handler: makes the responses.
    """

    def __init__(
        self, front: Front, name: str, limiter: ConcurrencyLimiter, arrivals: Arrivals, handler: Handler
    ) -> None:
        super().__init__(front, name, limiter, arrivals)
        self._handler = handler

    def _responses(self, call: Call, _record: CallRecord, messages: Iterator[bytes]) -> Generator[bytes, None, None]:
        idle_timeout = self.idle_timeout
        timed = TimedMessages(messages, idle_timeout, lambda: self.abort(call, idle_timeout.error()))
        for response in _call(self._handler, map(self._read, timed), call.context()):
            yield self._handler.response_serializer(response) if self._handler.response_serializer else response

    def _read(self, message: bytes) -> Any:  # noqa: ANN401 (what the handler takes)
        try:
            return self._handler.request_deserializer(message) if self._handler.request_deserializer else message
        except DecodeError:
            raise InvalidRequest("", "malformed protobuf, or a text in it is not UTF-8") from None


class WatchMethod(LocalStream):
    """An endless stream: if too many calls run, the oldest is aborted, so that a new one is served.

    Its limiter has twice as many slots as calls may run, because aborted calls end later.
    """

    def __init__(
        self, front: Front, name: str, limiter: ConcurrencyLimiter, arrivals: Arrivals, handler: Handler
    ) -> None:
        super().__init__(front, name, limiter, arrivals, handler)
        self._running = BoundedCalls(max(1, limiter.limit // 2), _REPLACED)

    def on_end(self, call: Call) -> None:
        """Remove the call."""
        self._running.remove(call)
        super().on_end(call)

    def _handle(self, call: Call, state: CallState, message: bytes | None) -> None:
        self._running.add(call, self)
        super()._handle(call, state, message)


def _call(handler: Handler, messages: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
    """The responses of a handler of any shape.

    Raises:
        RequestMissing: the client half-closed without the request of a unary call.
    """
    if handler.stream_stream is not None:
        yield from handler.stream_stream(messages, context)
    elif handler.stream_unary is not None:
        yield handler.stream_unary(messages, context)
    else:
        for request in messages:
            if handler.unary_stream is not None:
                yield from handler.unary_stream(request, context)
            elif handler.unary_unary is not None:
                yield handler.unary_unary(request, context)
            return
        raise RequestMissing("the request is missing")
