"""Around every method: decodes requests, encodes responses, bounds both and what runs, maps errors, counts outcomes."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
from google.protobuf.message import Message
from google.rpc import code_pb2
from grpc_status import rpc_status

from server.api.deadlines import SILENCE_S, Deadlines, Timer
from server.api.desk import Desk
from server.api.doors import Doors
from server.api.journal import REQUEST_ID, Journal, as_seen, request_id
from server.api.methods import Handler
from server.api.sizes import MessageLimits
from server.api.status import code_of, to_status
from server.api.wire import decode
from server.errors import Cancelled, MessageTooLarge, Overloaded, SwiftrecError
from server.pipeline.call import Call, finish
from server.telemetry.metrics import Metrics

# They block nothing and have places of their own: a server that is full is alive.
_PROBES = {
    "/grpc.health.v1.Health/Check",
    "/inference.GRPCInferenceService/ServerLive",
    "/inference.GRPCInferenceService/ServerReady",
}
_PROBES_AT_ONCE = 64
_INTERNAL = "internal error; the server's log has the reason under request id "


@dataclass(frozen=True, slots=True)
class _Ending(grpc.Status):
    """How a call ends that was refused."""

    code: grpc.StatusCode
    details: str
    trailing_metadata: tuple[tuple[str, str | bytes], ...]


class Awaited:
    """A method as gRPC calls it: at the desk, or in a thread of the pool.

    Args:
        begin: the coroutine that answers a request.
        desk: takes its calls; None: each takes a thread.
        is_quick: it never blocks a thread.
        missed: told the code of a call that ended before its request had come.
    """

    def __init__(
        self,
        begin: Callable[[bytes, grpc.ServicerContext], Coroutine[Call, None, Any]],
        desk: Desk | None,
        *,
        is_quick: bool = True,
        missed: Callable[[str], None] = lambda _code: None,
    ) -> None:
        self.begin, self.is_quick, self.missed = begin, is_quick, missed
        if desk:
            self.experimental_thread_pool = desk  # the name that gRPC looks for

    def __call__(self, data: bytes, context: grpc.ServicerContext) -> Any:  # noqa: ANN401 (any response type)
        """Answer in this thread."""
        return finish(self.begin(data, context))


class Edge:
    """Wraps every method on its registration.

    Methods whose request type is not known (reflection, health's Watch) are bounded but otherwise left alone.

    Args:
        requests: full method name ("/swiftrec.v1.EncoderService/Encode") -> request type.
        metrics: where outcomes are counted.
        doors: bound the calls that run.
        streams: bound the streams among them, since each holds a thread for as long as it is open.
        journal: told of each call that has ended.
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
        metrics: Metrics,
        doors: Doors,
        streams: Doors,
        journal: Journal,
        deadlines: Deadlines,
        desk: Desk | None = None,
        silence_s: float = SILENCE_S,
        sizes: MessageLimits = MessageLimits(),  # noqa: B008 (it is frozen)
        stream_errors: Mapping[str, Callable[[Any, SwiftrecError], Message]] | None = None,
    ) -> None:
        self._sizes, self._stream_errors = sizes, stream_errors or {}
        self._requests, self._metrics, self._doors, self._streams = requests, metrics, doors, streams
        self._journal, self._deadlines, self._desk, self._silence_s = journal, deadlines, desk, silence_s
        self._probes = Doors(_PROBES_AT_ONCE, lambda: 0.0)
        self._ok = {name: metrics.calls.labels(_short(name), "OK") for name in requests}

    def wrap(self, name: str, handler: Handler) -> Handler:
        """The method with the edge around it."""
        kind = self._requests.get(name)
        if handler.unary_unary is not None and kind is not None:
            waits = inspect.iscoroutinefunction(handler.unary_unary)
            behaviour = handler.unary_unary if waits else _at_once(handler.unary_unary)
            begin, missed = partial(self._unary, name, kind, behaviour), partial(self._missed, name)
            unary = Awaited(begin, self._desk, is_quick=waits or name in _PROBES, missed=missed)
            return grpc.unary_unary_rpc_method_handler(unary)
        if handler.stream_stream is not None and kind is not None:
            stream = partial(self._stream, name, kind, handler.stream_stream)
            return grpc.stream_stream_rpc_method_handler(stream)
        if handler.stream_stream is not None:
            both = partial(self._bound, name, handler.stream_stream)
            return grpc.stream_stream_rpc_method_handler(
                both, handler.request_deserializer, handler.response_serializer
            )
        if handler.unary_stream is not None:
            # As a stream it takes its place before its request is there; gRPC waits for one in a thread, without end.
            down = partial(self._bound, name, partial(self._of_one, handler.unary_stream))
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
        silence = Timer(time.monotonic() + self._silence_s, context.cancel)
        self._deadlines.watch(silence)
        try:
            message = next(messages, None)
        finally:
            self._deadlines.forget(silence)
        if message is None:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the request is missing")
        yield from behaviour(message, context)

    def _bound(
        self,
        name: str,
        behaviour: Callable[[Any, grpc.ServicerContext], Iterator[Any]],
        data: Any,  # noqa: ANN401 (a message or an iterator of messages)
        context: grpc.ServicerContext,
    ) -> Iterator[Any]:
        started, identity = time.monotonic(), _identify(context)
        try:
            place = self._streams.enter()
        except Overloaded as error:
            self._refuse(name, error, context, started, identity)
            return
        try:
            yield from behaviour(data, context)
        finally:
            self._streams.leave(place)

    async def _unary(
        self,
        name: str,
        kind: type[Message],
        behaviour: Callable[[Any, grpc.ServicerContext], Coroutine[Call, None, Any]],
        data: bytes,
        context: grpc.ServicerContext,
    ) -> bytes | None:
        started, identity = time.monotonic(), _identify(context)
        doors = self._probes if name in _PROBES else self._doors
        try:
            place = doors.enter()
            try:
                answer = self._encode(await behaviour(self._decode(kind, data), context))
            finally:
                doors.leave(place)
        except Exception as error:  # noqa: BLE001 (mapped below, whatever it is)
            self._refuse(name, error, context, started, identity)
            return None
        self._end(name, context, started, identity)
        return answer

    def _stream(
        self,
        name: str,
        kind: type[Message],
        behaviour: Callable[[Any, grpc.ServicerContext], Iterator[Any]],
        messages: Iterator[bytes],
        context: grpc.ServicerContext,
    ) -> Iterator[bytes]:
        started, identity = time.monotonic(), _identify(context)
        try:
            place = self._streams.enter()
            try:
                answers = behaviour((self._decode(kind, data) for data in messages), context)
                yield from self._encode_stream(name, answers)
            finally:
                self._streams.leave(place)
        except GeneratorExit:  # the client has gone and nobody takes the next answer
            self._left(name, "CANCELLED", context, started, identity)
            raise
        except grpc.RpcError:  # what reading the next message raises when the client has gone
            self._refuse(name, Cancelled("the caller has gone"), context, started, identity)
        except Exception as error:  # noqa: BLE001 (mapped below, whatever it is)
            self._refuse(name, error, context, started, identity)
        else:
            self._left(name, "OK", context, started, identity)

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

    def _left(self, name: str, code: str, context: grpc.ServicerContext, started: float, identity: str) -> None:
        """A stream has ended; who goes while it is read or answered ends it too, so that only gRPC knows how."""
        code = as_seen(code, context, started)
        self._metrics.calls.labels(_short(name), code).add(time.monotonic() - started)
        self._journal.ended(name, code, started, context, identity=identity)

    def _missed(self, name: str, code: str) -> None:
        """The call ended before its request had come."""
        self._metrics.calls.labels(_short(name), code).add(0.0)

    def _end(self, name: str, context: grpc.ServicerContext, started: float, identity: str) -> None:
        """The call went well."""
        self._ok[name].add(time.monotonic() - started)
        if self._journal.is_open:
            self._journal.ended(name, as_seen("OK", context, started), started, context, identity=identity)

    def _refuse(
        self, name: str, error: Exception, context: grpc.ServicerContext, started: float, identity: str
    ) -> None:
        """End the call with the error's status; never returns."""
        bug = None
        if not isinstance(error, SwiftrecError):  # our bug: the log gets the traceback, the client a sentence
            bug, error = error, SwiftrecError(_INTERNAL + identity)
        status = to_status(error)
        code = as_seen(code_pb2.Code.Name(code_of(error)), context, started)
        self._metrics.calls.labels(_short(name), code).add(time.monotonic() - started)
        self._journal.ended(name, code, started, context, identity=identity, error=error, bug=bug)
        ending = rpc_status.to_status(status)
        extra: list[tuple[str, str | bytes]] = [(REQUEST_ID, identity)]
        if isinstance(error, Overloaded):
            extra.append(("grpc-retry-pushback-ms", str(max(1, round(error.retry_after * 1e3)))))
        context.abort_with_status(_Ending(ending.code, ending.details, (*ending.trailing_metadata, *extra)))


def _identify(context: grpc.ServicerContext) -> str:
    """The request id, which the client gets back in the trailing metadata, however the call ends."""
    identity = request_id(context)
    context.set_trailing_metadata(((REQUEST_ID, identity),))
    return identity


def _at_once(
    behaviour: Callable[[Any, grpc.ServicerContext], Any],
) -> Callable[[Any, grpc.ServicerContext], Coroutine[Call, None, Any]]:
    """A method that waits for nothing, as a coroutine."""

    async def answer(message: Any, context: grpc.ServicerContext) -> Any:  # noqa: ANN401 (any message)
        return behaviour(message, context)

    return answer


def _short(method: str) -> str:
    return method.rpartition("/")[2]
