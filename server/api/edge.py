"""Around every method: decodes requests, encodes responses, bounds both and what runs, maps errors, counts outcomes."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from functools import partial
from typing import Any

import grpc
from google.protobuf.message import Message

from server.api.deadlines import SILENCE_S, Deadlines, first_message
from server.api.desk import Desk
from server.api.doors import Doors
from server.api.methods import Handler
from server.api.outcomes import Outcomes, identify
from server.api.sizes import MessageLimits
from server.api.wire import decode
from server.errors import Cancelled, MessageTooLarge, SwiftrecError
from server.pipeline.call import Call, finish

# They block nothing and have places of their own: a server that is full is alive.
_PROBES = {
    "/grpc.health.v1.Health/Check",
    "/inference.GRPCInferenceService/ServerLive",
    "/inference.GRPCInferenceService/ServerReady",
}
_PROBES_AT_ONCE = 64
RecordCode = Callable[[str], None]


def _record_nothing(_context: grpc.ServicerContext, _started: float) -> RecordCode:
    return lambda _code: None


class Awaited:
    """A method as gRPC calls it: at the desk, or in a thread of the pool.

    Args:
        begin: the coroutine that answers a request.
        desk: takes its calls; None: each takes a thread.
        is_quick: it never blocks a thread.
        without_request: called where a call ends before its request has come; returns what records its code.
    """

    def __init__(
        self,
        begin: Callable[[bytes, grpc.ServicerContext], Coroutine[Call, None, Any]],
        desk: Desk | None,
        *,
        is_quick: bool = True,
        without_request: Callable[[grpc.ServicerContext, float], RecordCode] = _record_nothing,
    ) -> None:
        self.begin, self.is_quick, self.without_request = begin, is_quick, without_request
        if desk:
            self.experimental_thread_pool = desk  # the name that gRPC looks for

    def __call__(self, data: bytes, context: grpc.ServicerContext) -> Any:  # noqa: ANN401 (any response type)
        """Answer in this thread."""
        return finish(self.begin(data, context))


class Edge:
    """Wraps every method on its registration.

    Messages of methods whose request type is not known (reflection, health's Watch) are left to gRPC.

    Args:
        requests: full method name ("/swiftrec.v1.EncoderService/Encode") -> request type.
        outcomes: counts, logs and refuses calls.
        doors: bound the calls that run.
        streams: bound the streams among them, since each holds a thread for as long as it is open.
        deadlines: end calls whose only request does not come.
        desk: takes unary calls; None: each takes a thread.
        silence_s: how long such a request is waited for.
        sizes: bound each request and each response.
        stream_errors: full name of a streaming method -> makes, of a response that cannot be sent, the one that says
            why; other streams end with the error.
    """

    def __init__(
        self,
        requests: dict[str, type[Message]],
        outcomes: Outcomes,
        doors: Doors,
        streams: Doors,
        deadlines: Deadlines,
        desk: Desk | None = None,
        silence_s: float = SILENCE_S,
        sizes: MessageLimits = MessageLimits(),  # noqa: B008 (it is frozen)
        stream_errors: Mapping[str, Callable[[Any, SwiftrecError], Message]] | None = None,
    ) -> None:
        self._sizes, self._stream_errors = sizes, stream_errors or {}
        self._requests, self._outcomes, self._doors, self._streams = requests, outcomes, doors, streams
        self._deadlines, self._desk, self._silence_s = deadlines, desk, silence_s
        self._probes = Doors(_PROBES_AT_ONCE, lambda: 0.0)

    def wrap(self, name: str, handler: Handler) -> Handler:
        """The method with the edge around it."""
        kind = self._requests.get(name)
        if handler.unary_unary is not None and kind is not None:
            waits = inspect.iscoroutinefunction(handler.unary_unary)
            behaviour = handler.unary_unary if waits else _at_once(handler.unary_unary)
            begin = partial(self._unary, name, kind, behaviour)
            without_request = partial(self._outcomes.without_request, name)
            unary = Awaited(begin, self._desk, is_quick=waits or name in _PROBES, without_request=without_request)
            return grpc.unary_unary_rpc_method_handler(unary)
        if handler.stream_stream is not None and kind is not None:
            coded = partial(self._coded, name, kind, handler.stream_stream)
            return grpc.stream_stream_rpc_method_handler(partial(self._stream, name, coded))
        if handler.stream_stream is not None:
            both = partial(self._stream, name, handler.stream_stream)
            return grpc.stream_stream_rpc_method_handler(
                both, handler.request_deserializer, handler.response_serializer
            )
        if handler.unary_stream is not None:
            # As a stream it takes its place before its request is there; gRPC waits for one in a thread, without end.
            down = partial(self._stream, name, partial(self._of_one, handler.unary_stream))
            return grpc.stream_stream_rpc_method_handler(
                down, handler.request_deserializer, handler.response_serializer
            )
        return handler

    def _of_one(
        self,
        behaviour: Callable[[Any, grpc.ServicerContext], Iterator[Any]],
        messages: Iterator[Any],
        context: grpc.ServicerContext,
    ) -> Iterator[Any]:
        """The responses of a method that takes one request, given as a stream."""
        return behaviour(first_message(messages, context, self._deadlines, self._silence_s), context)

    def _coded(
        self,
        name: str,
        kind: type[Message],
        behaviour: Callable[[Iterator[Any], grpc.ServicerContext], Iterator[Any]],
        messages: Iterator[bytes],
        context: grpc.ServicerContext,
    ) -> Iterator[bytes]:
        """The responses in bytes of a method whose requests come in bytes."""
        return self._encode_stream(name, behaviour((self._decode(kind, data) for data in messages), context))

    async def _unary(
        self,
        name: str,
        kind: type[Message],
        behaviour: Callable[[Any, grpc.ServicerContext], Coroutine[Call, None, Any]],
        data: bytes,
        context: grpc.ServicerContext,
    ) -> bytes | None:
        call = context, time.monotonic(), identify(context)
        doors = self._probes if name in _PROBES else self._doors
        try:
            place = doors.enter()
            try:
                answer = self._encode(await behaviour(self._decode(kind, data), context))
            finally:
                doors.leave(place)
        except Exception as error:  # noqa: BLE001 (mapped below, whatever it is)
            self._outcomes.refuse(name, error, *call)
            return None
        self._outcomes.succeed(name, *call)
        return answer

    def _stream(
        self,
        name: str,
        behaviour: Callable[[Iterator[Any], grpc.ServicerContext], Iterator[Any]],
        messages: Iterator[Any],
        context: grpc.ServicerContext,
    ) -> Iterator[Any]:
        call = context, time.monotonic(), identify(context)
        try:
            place = self._streams.enter()
            try:
                yield from behaviour(messages, context)
            finally:
                self._streams.leave(place)
        except GeneratorExit:  # the client has gone and nobody takes the next answer
            self._outcomes.end(name, "CANCELLED", *call)
            raise
        except grpc.RpcError:  # what reading the next message raises when the client has gone
            self._outcomes.refuse(name, Cancelled("the caller has gone"), *call)
        except Exception as error:  # noqa: BLE001 (mapped to a status, whatever it is)
            self._outcomes.refuse(name, error, *call)
        else:
            self._outcomes.end(name, "OK", *call)

    def _decode(self, kind: type[Message], data: bytes) -> Message:
        self._sizes.check_request(len(data))
        return decode(kind, data)

    def _encode(self, answer: Message) -> bytes:
        data = answer.SerializeToString()
        self._sizes.check_response(len(data))
        return data

    def _encode_stream(self, name: str, answers: Iterator[Message]) -> Iterator[bytes]:
        """Each response in bytes. One that is too large concerns its own message only, if it can say so."""
        for answer in answers:
            try:
                data = self._encode(answer)
            except MessageTooLarge as error:
                if name not in self._stream_errors:
                    raise
                data = self._encode(self._stream_errors[name](answer, error))
            yield data


def _at_once(
    behaviour: Callable[[Any, grpc.ServicerContext], Any],
) -> Callable[[Any, grpc.ServicerContext], Coroutine[Call, None, Any]]:
    """A method that waits for nothing, as a coroutine."""

    async def answer(message: Any, context: grpc.ServicerContext) -> Any:  # noqa: ANN401 (any message)
        return behaviour(message, context)

    return answer
