"""What is told of each call when it has ended: a line in the log, a span. Never a text, an item id, a token."""

from __future__ import annotations

import logging
import secrets
import time

import grpc

from server.telemetry.traces import Ended, Parent, Traces, read_traceparent

_log = logging.getLogger(__name__)
_JITTER_S = 0.005  # by which the first bytes of a call may travel longer than its last


class Journal:
    """Tells of calls.

    Args:
        traces: makes spans of them; None: no spans.
    """

    def __init__(self, traces: Traces | None = None) -> None:
        self._traces = traces

    @property
    def is_open(self) -> bool:
        """Whether calls that went well are told of; if not, their metadata is not even read."""
        return self._traces is not None or _log.isEnabledFor(logging.DEBUG)

    def ended(
        self,
        method: str,
        code: str,
        started: float,
        context: grpc.ServicerContext,
        *,
        identity: str = "",
        bug: Exception | None = None,
    ) -> None:
        """A call has ended: at level debug, or error if the fault is ours (`bug` adds where it happened)."""
        ended = time.monotonic()
        call = Ended(method, code, started, ended, identity or request_id(context))
        parent = _parent(context)
        trace_id = self._traces.ended(call, parent) if self._traces else ""
        level = logging.ERROR if code == "INTERNAL" else logging.DEBUG
        if _log.isEnabledFor(level):
            fields: dict[str, object] = {
                "method": method,
                "code": code,
                "ms": round(1e3 * (ended - started), 3),
                "request_id": call.request_id,
            }
            if trace_id or parent:
                fields["trace_id"] = trace_id or f"{parent.trace_id:032x}" if parent else trace_id
            _log.log(level, "call failed" if level == logging.ERROR else "call", exc_info=bug, extra={"fields": fields})


def request_id(context: grpc.ServicerContext) -> str:
    """The id that the client gave as `x-request-id` (its first 64 printable characters), or a new one."""
    value = _metadata(context, "x-request-id")
    return value[:64] if value and value.isascii() and value.isprintable() else secrets.token_hex(8)


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


def _parent(context: grpc.ServicerContext) -> Parent | None:
    value = _metadata(context, "traceparent")
    return read_traceparent(value) if value else None


def _metadata(context: grpc.ServicerContext, name: str) -> str | None:
    for key, value in context.invocation_metadata() or ():
        if key == name and isinstance(value, str):
            return value
    return None
