"""Methods whose calls hold a thread, from their first message on: streams,."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from itertools import chain
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from swiftrec.server.errors import Cancelled, InvalidRequest, RequestMissing
from swiftrec.server.front.calls import Call
from swiftrec.server.front.framed import FramedMethod, Note
from swiftrec.server.front.front import Front
from swiftrec.server.front.limits import Arrivals, ConcurrencyLimiter, Crowd
from swiftrec.server.front.methods import Handler
from swiftrec.server.front.outcomes import CallRecord
from swiftrec.server.front.streams import Patience, PunctualMessages, map_ordered
from swiftrec.server.front.waits import Exchange
from swiftrec.server.ticket import Reply

_NEWER_WATCHES = "Exceeds maximum queue size: newer calls of this method have taken the places"


class StreamMethod(FramedMethod):
    """A method whose calls hold a thread from their first message on."""

    @property
    def patience(self) -> Patience:
        """How long its calls may be silent."""
        return Patience(self._front.timers, self._front.next_message_timeout_s)

    def missed(self, call: Call) -> None:
        """The client has ended its side, or the call, without a message."""
        self._arrivals.leave(call)
        if call.note.end_wait() and call.has_half_closed:
            self._take(call, None)

    def _answer(self, call: Call, note: Note, message: bytes | None) -> None:
        first = () if message is None else (message,)
        self._front.threads.submit(self._work, call, note, first)

    def _work(self, call: Call, note: Note, first: tuple[bytes, ...]) -> None:
        """Send the responses; holds the thread until the stream ends."""
        try:
            with closing(self._responses(call, note.record, chain(first, call.messages))) as responses:
                if all(self._send(call, response) for response in responses):
                    self._respond(call, note, None)
        except grpc.RpcError:  # what reading the next message raises when the client has gone
            self.refuse(call, Cancelled("the client has gone"))
        except Exception as error:  # noqa: BLE001 (mapped to a status, whatever it is)
            self.refuse(call, error)

    def _send(self, call: Call, response: bytes) -> bool:
        """Send a response, which the client must take in time."""
        number = self._front.unsent.add(len(response), call.abort_transport)
        try:
            return call.send(response)
        finally:
            self._front.unsent.remove(number)

    def _responses(self, call: Call, record: CallRecord, messages: Iterator[bytes]) -> Generator[bytes, None, None]:
        raise NotImplementedError


class WorkerStream(StreamMethod):
    """A stream whose messages the worker answers."""

    def _responses(self, call: Call, record: CallRecord, messages: Iterator[bytes]) -> Generator[bytes, None, None]:
        front = self._front

        def send(message: bytes, on_reply: Callable[[Reply], None]) -> Exchange:
            front.sizes.check_request(len(message))
            front.unsent.check()
            return front.exchanges.send(self.name, message, call.time_left_s, on_reply, record.works)

        return map_ordered(messages, send, front.readers, self.patience, call.context().add_callback, front.unsent)


class LocalStream(StreamMethod):
    """A method of any shape that is answered here, as one that takes and gives streams.

    Args:
        front: what methods share.
        name: full name.
        limiter: bounds the calls that have their first message.
        arrivals: bound those that do not.
        handler: answers.
    """

    def __init__(
        self, front: Front, name: str, limiter: ConcurrencyLimiter, arrivals: Arrivals, handler: Handler
    ) -> None:
        super().__init__(front, name, limiter, arrivals)
        self._handler = handler

    def _responses(self, call: Call, _record: CallRecord, messages: Iterator[bytes]) -> Generator[bytes, None, None]:
        patience = self.patience
        punctual = PunctualMessages(messages, patience, lambda: self.refuse(call, patience.error()))
        for response in _answers(self._handler, map(self._read, punctual), call.context()):
            yield self._handler.response_serializer(response) if self._handler.response_serializer else response

    def _read(self, message: bytes) -> Any:  # noqa: ANN401 (what the handler takes)
        try:
            return self._handler.request_deserializer(message) if self._handler.request_deserializer else message
        except DecodeError:
            raise InvalidRequest("", "malformed protobuf, or a text in it is not UTF-8") from None


class WatchMethod(LocalStream):
    """A stream without an end: if too many calls run, the oldest is refused, so that another one gets its answer.

    It is given twice as many places as calls may run, for calls that are refused and have not ended.
    """

    def __init__(
        self, front: Front, name: str, limiter: ConcurrencyLimiter, arrivals: Arrivals, handler: Handler
    ) -> None:
        super().__init__(front, name, limiter, arrivals, handler)
        self._running = Crowd(max(1, limiter.limit // 2), _NEWER_WATCHES)

    def over(self, call: Call) -> None:
        """Make room for another."""
        self._running.leave(call)
        super().over(call)

    def _answer(self, call: Call, note: Note, message: bytes | None) -> None:
        self._running.enter(call, self)
        super()._answer(call, note, message)


def _answers(handler: Handler, messages: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
    """The responses of a handler of any shape.

    Raises:
        RequestMissing: it takes one request, and the client has ended its side without one.
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
