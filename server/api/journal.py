"""The log line and the span of each call that has ended. Neither ever has a text, an item id or a token."""

from __future__ import annotations

import logging
import time

import grpc

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
from server.telemetry.traces import Ended, Parent, Traces, read_traceparent

_log = logging.getLogger(__name__)
_JITTER_S = 0.005  # by which the first bytes of a call may travel longer than its last
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


class Journal:
    """Tells of calls.

    Args:
        traces: makes spans of them; None: no spans.
    """

    def __init__(self, traces: Traces | None = None) -> None:
        self._traces = traces

    @property
    def is_open(self) -> bool:
        """Whether calls that went well leave a line or a span."""
        return self._traces is not None or _log.isEnabledFor(logging.DEBUG)

    def ended(
        self,
        method: str,
        code: str,
        started: float,
        context: grpc.ServicerContext,
        *,
        identity: str,
        error: SwiftrecError | None = None,
        bug: Exception | None = None,
    ) -> None:
        """A call has ended: at level debug, or error if the fault is ours.

        Args:
            method: its full name.
            code: as the client saw it.
            started: on the monotonic clock.
            context: gRPC's.
            identity: its request id.
            error: why it was refused, if it was; what the code alone says is added.
            bug: the exception behind an internal error, whose traceback is added.
        """
        level = logging.ERROR if code == "INTERNAL" else logging.DEBUG
        is_logged = _log.isEnabledFor(level)
        if not is_logged and self._traces is None:
            return
        ended = time.monotonic()
        parent = _parent(context)
        trace_id = self._traces.ended(Ended(method, code, started, ended, identity), parent) if self._traces else ""
        if is_logged:
            fields: dict[str, object] = {
                "method": method,
                "code": code,
                "ms": round(1e3 * (ended - started), 3),
                "request_id": identity,
            }
            if error is None or isinstance(error, Cancelled):
                error = _ENDED_BY_CLIENT.get(code, error)
            if error:
                fields |= reason_of(error)
            if trace_id or parent:
                fields["trace_id"] = trace_id or f"{parent.trace_id:032x}" if parent else trace_id
            _log.log(level, "call failed" if level == logging.ERROR else "call", exc_info=bug, extra={"fields": fields})


def reason_of(error: SwiftrecError) -> dict[str, str]:
    """Why a call was refused, as fields of a log line that quote nothing of the request; "field" may be empty."""
    if isinstance(error, InvalidInput):
        field = error.field if error.field in _INPUT_FIELDS else ""
        return {"reason": _REASONS[InvalidInput], "field": field}
    if isinstance(error, InvalidRequest):
        return {"reason": error.rule, "field": error.field}
    return {"reason": next((_REASONS[kind] for kind in type(error).__mro__ if kind in _REASONS), "internal error")}


def as_seen(code: str, context: grpc.ServicerContext, started: float) -> str:
    """What the client saw: an answer that came after the call's end was none, and gRPC cancels what has expired.

    A client whose own timer fires cancels, too, and does so before the deadline that it told, since it tells it rounded
    up, by at most a hundredth (grpc-timeout). Who cancels that late by himself looks the same.
    """
    if code not in {"OK", "CANCELLED"} or context.is_active():
        return code
    remaining_s = context.time_remaining()
    if remaining_s is None:
        return "CANCELLED"
    told_s = time.monotonic() - started + remaining_s
    return "DEADLINE_EXCEEDED" if remaining_s < _JITTER_S + told_s / 100 else "CANCELLED"


def metadata_value(context: grpc.ServicerContext, name: str) -> str | None:
    """The first value of that name in a call's metadata, if it is a text."""
    for key, value in context.invocation_metadata() or ():
        if key == name and isinstance(value, str):
            return value
    return None


def _parent(context: grpc.ServicerContext) -> Parent | None:
    value = metadata_value(context, "traceparent")
    return read_traceparent(value) if value else None
