"""The outermost interceptor: decodes requests, maps errors, counts outcomes; one place for every unary RPC."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import Message
from google.rpc import code_pb2
from grpc_status import rpc_status

from server.api.status import code_of, to_status
from server.api.wire import decode
from server.errors import SwiftrecError
from server.telemetry.metrics import Metrics

_log = logging.getLogger(__name__)
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class Edge(grpc.ServerInterceptor):  # type: ignore[type-arg] # the stub is generic, the class is not
    """Wraps unary methods whose request type is known; streams (reflection, health watch) pass through.

    Args:
        requests: full method name ("/swiftrec.v1.EncoderService/Encode") -> request type.
        metrics: where outcomes are counted.
    """

    def __init__(self, requests: dict[str, type[Message]], metrics: Metrics) -> None:
        self._requests, self._metrics = requests, metrics

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Handler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Replace the deserialiser by our own, inside the guarded call."""
        handler = continuation(handler_call_details)
        kind = self._requests.get(handler_call_details.method)
        if handler is None or kind is None or handler.unary_unary is None:
            return handler
        method, behaviour = handler_call_details.method.rpartition("/")[2], handler.unary_unary

        def call(data: bytes, context: grpc.ServicerContext) -> Any:  # noqa: ANN401 (any response type)
            return self._call(method, lambda: behaviour(decode(kind, data), context), context)

        return grpc.unary_unary_rpc_method_handler(call, response_serializer=handler.response_serializer)

    def _call(self, method: str, answer: Callable[[], Any], context: grpc.ServicerContext) -> Any:  # noqa: ANN401
        started = time.monotonic()
        code, error = code_pb2.OK, None
        try:
            return answer()
        except SwiftrecError as caught:
            code, error = code_of(caught), caught
        except Exception:  # noqa: BLE001 (our bug: the log gets the traceback, the client a sentence)
            _log.exception("%s failed", method)
            code, error = code_pb2.INTERNAL, SwiftrecError("internal error; the server's log has the reason")
        finally:
            self._metrics.calls.labels(method, code_pb2.Code.Name(code)).inc()
            self._metrics.latency.labels(method).observe(time.monotonic() - started)
        context.abort_with_status(rpc_status.to_status(to_status(error)))
        return None
