"""Finished calls: the status code that the client saw, the metric, the log line and the span.

Logs and spans never contain a text, an item id or a token.
"""

from __future__ import annotations

import itertools
import logging
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import grpc
from google.rpc import code_pb2
from grpc_status import rpc_status

from swiftrec.server.errors import (
    BundleError,
    Busy,
    Cancelled,
    DeadlineExceeded,
    InternalError,
    InvalidInput,
    InvalidRequest,
    MessageTooLarge,
    ModelFailed,
    NotFound,
    NotServing,
    Overloaded,
    RequestMissing,
    ShuttingDown,
    SwiftrecError,
    Unauthenticated,
    Unsupported,
)
from swiftrec.server.front.calls import Metadata
from swiftrec.server.status import code_of, to_status
from swiftrec.server.telemetry.histogram import Histogram
from swiftrec.server.telemetry.metrics import Metrics
from swiftrec.server.telemetry.traces import FinishedCall, Parent, PipelineSpan, Traces, read_traceparent

REQUEST_ID = "x-request-id"
_REQUEST_ID_CHARS = 64
_INTERNAL = "internal error; the server's log has the reason under request id "
# A new id is a random number of this process and a counter: a system call for each request would cost more.
_ID_PREFIX = secrets.token_hex(4)
_id_numbers = itertools.count()
_MAX_ID_NUMBER = 0xFFFFFFFF
_NETWORK_JITTER_S = 0.005  # by which the first bytes of a call may take longer than its last
_log = logging.getLogger(__name__)
# Reasons in the log. The messages for clients may quote requests, so they are not logged.
_REASONS: dict[type[SwiftrecError], str] = {
    Unauthenticated: "no valid token",
    RequestMissing: "the request is missing, or did not arrive in time",
    InvalidInput: "an input or parameter is wrong",
    MessageTooLarge: "the request or its response is too large",
    NotFound: "no such bundle, version or model is loaded",
    NotServing: "no bundle is loaded yet",
    Busy: "another bundle is being loaded or unloaded",
    BundleError: "the bundle is missing, damaged or incompatible",
    Unsupported: "not supported",
    Overloaded: "the server is full",
    DeadlineExceeded: "the deadline passed, or would have passed",
    Cancelled: "the call was cancelled",
    ShuttingDown: "the server is stopping",
    ModelFailed: "the model failed on this input",
}
# Codes of calls that the client or its deadline ended, perhaps before a late response.
_ENDED_BY_CLIENT = {"CANCELLED": Cancelled(), "DEADLINE_EXCEEDED": DeadlineExceeded()}
_INPUT_FIELDS = frozenset({"TEXT", "QUERY", "HISTORY", "K", "timeout", "priority", "bundle", "exclude_history"})


@dataclass(frozen=True, slots=True)
class AbortStatus(grpc.Status):
    """The status of a call that was aborted."""

    code: grpc.StatusCode
    details: str
    trailing_metadata: tuple[tuple[str, str | bytes], ...]


@dataclass(slots=True)
class CallRecord:
    """One call, for the metrics and the log.

    Args:
        method: full name.
        started: on the monotonic clock.
        metadata: sent by the client.
        identity: the request id.
        code: name of the status code that was sent, or could not be sent.
        error: why the call was aborted, if it was.
        exception: the cause of an internal error.
        spans: recorded by workers, for the trace.
    """

    method: str
    started: float
    metadata: Metadata
    identity: str
    code: str = "OK"
    error: SwiftrecError | None = None
    exception: BaseException | None = None
    spans: list[PipelineSpan] = field(default_factory=list)

    def abort_status(self, error: Exception) -> AbortStatus:
        """Record an error; returns the status to send."""
        if not isinstance(error, SwiftrecError):  # a bug: log the traceback, send a short message
            self.exception, error = error, InternalError()
        if isinstance(error, InternalError):
            self.exception = self.exception or error.__cause__
            error = InternalError(_INTERNAL + self.identity)
        self.error, self.code = error, code_pb2.Code.Name(code_of(error))
        status = rpc_status.to_status(to_status(error))
        extra: list[tuple[str, str | bytes]] = [(REQUEST_ID, self.identity)]
        if isinstance(error, Overloaded):
            extra.append(("grpc-retry-pushback-ms", str(max(1, round(error.retry_after * 1e3)))))
        return AbortStatus(status.code, status.details, (*status.trailing_metadata, *extra))


def client_code(started: float, time_left_s: float | None) -> str:
    """The status code that the client saw after gRPC cancelled its call: gRPC also cancels expired calls.

    A client cancels when its own timer fires, which is shortly before the deadline that it sent: grpc-timeout is
    rounded up, by at most 1 %. A client that cancels that late for another reason looks the same.
    """
    if time_left_s is None:
        return "CANCELLED"
    timeout_s = time.monotonic() - started + time_left_s
    return "DEADLINE_EXCEEDED" if time_left_s < _NETWORK_JITTER_S + timeout_s / 100 else "CANCELLED"


def request_id(metadata: Metadata) -> str:
    """The `x-request-id` that the client sent (its first 64 printable characters), or a new id."""
    value = metadata_value(metadata, REQUEST_ID)
    if value and value.isascii() and value.isprintable():
        return value[:_REQUEST_ID_CHARS]
    return f"{_ID_PREFIX}{next(_id_numbers) & _MAX_ID_NUMBER:08x}"


def metadata_value(metadata: Iterable[tuple[str, str | bytes]], name: str) -> str | None:
    """The first value of that name in the metadata of a call, if it is a string."""
    for key, value in metadata:
        if key == name and isinstance(value, str):
            return value
    return None


class AccessLog:
    """Writes log lines and spans of finished calls.

    Args:
        traces: makes spans; None: no spans.
    """

    def __init__(self, traces: Traces | None = None) -> None:
        self._traces = traces

    @property
    def is_open(self) -> bool:
        """Whether successful calls have a log line or a span."""
        return self._traces is not None or _log.isEnabledFor(logging.DEBUG)

    def log_call(self, call: CallRecord, ended: float) -> None:
        """Log a finished call: at level error if it failed with INTERNAL, else debug."""
        level = logging.ERROR if call.code == "INTERNAL" else logging.DEBUG
        is_logged = _log.isEnabledFor(level)
        if not is_logged and self._traces is None:
            return
        value = metadata_value(call.metadata, "traceparent")
        parent = read_traceparent(value) if value else None
        trace_id = self._trace(call, ended, parent) if self._traces else ""
        if is_logged:
            fields: dict[str, object] = {
                "method": call.method,
                "code": call.code,
                "ms": round(1e3 * (ended - call.started), 3),
                "request_id": call.identity,
            }
            if error := _shown_error(call):
                fields |= log_reason(error)
            if trace_id or parent:
                fields["trace_id"] = trace_id or f"{parent.trace_id:032x}" if parent else trace_id
            message = "call failed" if level == logging.ERROR else "call"
            _log.log(level, message, exc_info=call.exception, extra={"fields": fields})

    def _trace(self, call: CallRecord, ended: float, parent: Parent | None) -> str:
        if self._traces is None:
            return ""
        return self._traces.on_call_end(
            FinishedCall(call.method, call.code, call.started, ended, call.identity), parent, call.spans
        )


def _shown_error(call: CallRecord) -> SwiftrecError | None:
    """The error to log; a call that the client or its deadline ended may have had a late response."""
    if call.error is None or isinstance(call.error, Cancelled):
        return _ENDED_BY_CLIENT.get(call.code, call.error)
    return call.error


def log_reason(error: SwiftrecError) -> dict[str, str]:
    """Why a call failed, as fields of a log line that do not quote the request; "field" may be empty."""
    if isinstance(error, InvalidInput):
        field = error.field if error.field in _INPUT_FIELDS else ""
        return {"reason": _REASONS[InvalidInput], "field": field}
    if isinstance(error, InvalidRequest):
        return {"reason": error.rule, "field": error.field}
    return {"reason": next((_REASONS[kind] for kind in type(error).__mro__ if kind in _REASONS), "internal error")}


class Outcomes:
    """Counts and logs finished calls.

    Args:
        metrics: counts calls.
        access_log: writes the log and the traces.
    """

    def __init__(self, metrics: Metrics, access_log: AccessLog) -> None:
        self._metrics, self._log = metrics, access_log
        self._successes: dict[str, Histogram] = {}

    def record(self, call: CallRecord) -> None:
        """Count and log a finished call."""
        now = time.monotonic()
        if call.code == "OK" and not self._log.is_open:
            histogram = self._successes.get(call.method) or self._success(call.method)
            histogram.add(now - call.started)
            return
        self._metrics.calls.labels(_method_name(call.method), call.code).add(now - call.started)
        self._log.log_call(call, now)

    def _success(self, method: str) -> Histogram:
        return self._successes.setdefault(method, self._metrics.calls.labels(_method_name(method), "OK"))


def _method_name(method: str) -> str:
    return method.rpartition("/")[2]
