"""The log line and the span of each call that has ended. Neither ever has a text, an item id or a token."""

from __future__ import annotations

import logging

from server.errors import (
    BundleError,
    Busy,
    Cancelled,
    DeadlineExceeded,
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
from server.front.call_record import CallRecord, metadata_value
from server.telemetry.traces import Ended, Parent, Traces, read_traceparent

_log = logging.getLogger(__name__)
# What the log says of a refused call. The sentences for clients quote requests, so these stand in for them.
_REASONS: dict[type[SwiftrecError], str] = {
    Unauthenticated: "no valid token",
    RequestMissing: "the request is missing, or did not come in time",
    InvalidInput: "an input or parameter is wrong",
    MessageTooLarge: "the request or its response is over the limit of bytes",
    NotFound: "no such bundle, version or model is loaded",
    NotServing: "no bundle is loaded yet",
    Busy: "another bundle is being loaded or unloaded",
    BundleError: "the bundle is missing, damaged or does not fit",
    Unsupported: "not supported",
    Overloaded: "the server is full",
    DeadlineExceeded: "the deadline passed, or would have passed",
    Cancelled: "the call was cancelled",
    ShuttingDown: "the server stops",
    ModelFailed: "the model failed on this input",
}
# Codes of calls that the client or its deadline ended, which may have been answered too late.
_ENDED_BY_CLIENT = {"CANCELLED": Cancelled(), "DEADLINE_EXCEEDED": DeadlineExceeded()}
_INPUT_FIELDS = frozenset({"TEXT", "QUERY", "HISTORY", "K", "timeout", "priority", "bundle", "exclude_history"})


class AccessLog:
    """Writes of calls that have ended.

    Args:
        traces: makes spans of them; None: no spans.
    """

    def __init__(self, traces: Traces | None = None) -> None:
        self._traces = traces

    @property
    def is_open(self) -> bool:
        """Whether calls that went well leave a line or a span."""
        return self._traces is not None or _log.isEnabledFor(logging.DEBUG)

    def log_call(self, call: CallRecord, ended: float) -> None:
        """A call has ended: at level debug, or error if the fault is ours."""
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
                fields |= reason_of(error)
            if trace_id or parent:
                fields["trace_id"] = trace_id or f"{parent.trace_id:032x}" if parent else trace_id
            message = "call failed" if level == logging.ERROR else "call"
            _log.log(level, message, exc_info=call.exception, extra={"fields": fields})

    def _trace(self, call: CallRecord, ended: float, parent: Parent | None) -> str:
        if self._traces is None:
            return ""
        return self._traces.ended(Ended(call.method, call.code, call.started, ended, call.identity), parent, call.works)


def _shown_error(call: CallRecord) -> SwiftrecError | None:
    """The reason in the log; what the client or its deadline ended may have been answered too late."""
    if call.error is None or isinstance(call.error, Cancelled):
        return _ENDED_BY_CLIENT.get(call.code, call.error)
    return call.error


def reason_of(error: SwiftrecError) -> dict[str, str]:
    """Why a call was refused, as fields of a log line that quote nothing of the request; "field" may be empty."""
    if isinstance(error, InvalidInput):
        field = error.field if error.field in _INPUT_FIELDS else ""
        return {"reason": _REASONS[InvalidInput], "field": field}
    if isinstance(error, InvalidRequest):
        return {"reason": error.rule, "field": error.field}
    return {"reason": next((_REASONS[kind] for kind in type(error).__mro__ if kind in _REASONS), "internal error")}
