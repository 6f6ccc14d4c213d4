"""The outermost interceptor: decodes requests, bounds what runs, maps errors, counts outcomes; one for every RPC."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import Message
from google.rpc import code_pb2
from grpc_status import rpc_status

from server.api.status import code_of, to_status
from server.api.wire import decode
from server.errors import Overloaded, SwiftrecError
from server.telemetry.metrics import Metrics

_log = logging.getLogger(__name__)
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_INTERNAL = "internal error; the server's log has the reason under request id "


@dataclass(frozen=True, slots=True)
class _Ending(grpc.Status):
    """How a call ends that was refused."""

    code: grpc.StatusCode
    details: str
    trailing_metadata: tuple[tuple[str, str | bytes], ...]


class Doors:
    """How many calls may be inside at once."""

    def __init__(self, limit: int, drain_s: Callable[[], float]) -> None:
        self._limit, self._drain_s = limit, drain_s
        self._lock = threading.Lock()
        self.inside = 0

    def enter(self) -> None:
        """Come in.

        Raises:
            Overloaded: nobody more; come back when what is inside has been answered.
        """
        with self._lock:
            if self.inside < self._limit:
                self.inside += 1
                return
        raise Overloaded(max(0.01, self._drain_s()))

    def leave(self) -> None:
        """Go."""
        with self._lock:
            self.inside -= 1


class Edge(grpc.ServerInterceptor):  # type: ignore[type-arg] # the stub is generic, the class is not
    """Wraps every method whose request type is known; the rest (reflection, health watch) passes through.

    Args:
        requests: full method name ("/swiftrec.v1.EncoderService/Encode") -> request type.
        metrics: where outcomes are counted.
        doors: bound the calls that run.
    """

    def __init__(self, requests: dict[str, type[Message]], metrics: Metrics, doors: Doors) -> None:
        self._requests, self._metrics, self._doors = requests, metrics, doors
        self._seconds = {name: metrics.latency.labels(_short(name)) for name in requests}
        self._ok = {name: metrics.calls.labels(_short(name), "OK") for name in requests}

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Handler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Replace the deserialiser by our own, inside the guarded call."""
        handler, name = continuation(handler_call_details), handler_call_details.method
        kind = self._requests.get(name)
        if handler is None or kind is None:
            return handler
        if handler.unary_unary is not None:
            unary = partial(self._unary, name, kind, handler.unary_unary)
            return grpc.unary_unary_rpc_method_handler(unary, response_serializer=handler.response_serializer)
        if handler.stream_stream is not None:
            stream = partial(self._stream, name, kind, handler.stream_stream)
            return grpc.stream_stream_rpc_method_handler(stream, response_serializer=handler.response_serializer)
        return handler

    def _unary(
        self,
        name: str,
        kind: type[Message],
        behaviour: Callable[[Any, grpc.ServicerContext], Any],
        data: bytes,
        context: grpc.ServicerContext,
    ) -> Any:  # noqa: ANN401 (any response type)
        started = time.monotonic()
        try:
            self._doors.enter()
            try:
                answer = behaviour(decode(kind, data), context)
            finally:
                self._doors.leave()
        except Exception as error:  # noqa: BLE001 (mapped below, whatever it is)
            self._refuse(name, error, context)
            return None
        else:
            self._ok[name].inc()
            return answer
        finally:
            self._seconds[name].observe(time.monotonic() - started)

    def _stream(
        self,
        name: str,
        kind: type[Message],
        behaviour: Callable[[Any, grpc.ServicerContext], Iterator[Any]],
        messages: Iterator[bytes],
        context: grpc.ServicerContext,
    ) -> Iterator[Any]:
        try:
            self._doors.enter()
            try:
                yield from behaviour((decode(kind, data) for data in messages), context)
            finally:
                self._doors.leave()
        except Exception as error:  # noqa: BLE001 (mapped below, whatever it is)
            self._refuse(name, error, context)
        else:
            self._ok[name].inc()

    def _refuse(self, name: str, error: Exception, context: grpc.ServicerContext) -> None:
        """End the call with the error's status; never returns."""
        identity = request_id(context)
        if not isinstance(error, SwiftrecError):  # our bug: the log gets the traceback, the client a sentence
            _log.error("%s failed", _short(name), exc_info=error, extra={"fields": {"request_id": identity}})
            error = SwiftrecError(_INTERNAL + identity)
        status = to_status(error)
        self._metrics.calls.labels(_short(name), code_pb2.Code.Name(code_of(error))).inc()
        _log.debug("%s: %s", _short(name), type(error).__name__, extra={"fields": {"request_id": identity}})
        ending = rpc_status.to_status(status)
        extra: list[tuple[str, str | bytes]] = [("x-request-id", identity)]
        if isinstance(error, Overloaded):
            extra.append(("grpc-retry-pushback-ms", str(max(1, round(error.retry_after * 1e3)))))
        context.abort_with_status(_Ending(ending.code, ending.details, (*ending.trailing_metadata, *extra)))


def request_id(context: grpc.ServicerContext) -> str:
    """The id that the client gave as `x-request-id` (its first 64 printable characters), or a new one."""
    for key, value in context.invocation_metadata() or ():
        if key == "x-request-id" and isinstance(value, str) and value.isprintable():
            return value[:64]
    return secrets.token_hex(8)


def _short(method: str) -> str:
    return method.rpartition("/")[2]
