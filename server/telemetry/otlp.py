"""Spans by OTLP over gRPC, made of recorded times by a thread of their own, long after the answers have left."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from google.rpc import code_pb2
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.status import Status, StatusCode

from server.telemetry.traces import Ended, Parent, Work

_log = logging.getLogger(__name__)
_MOST = 2_048  # calls that wait to be exported; more are dropped
_BATCH = 128  # calls of one export
_DELAY_S = 1.0  # that a call waits for more
_TIMEOUT_S = 5.0  # of one export, retries included
_LOW = (1 << 64) - 1  # the bits of a trace id that the ratio looks at, as OpenTelemetry's samplers do


@dataclass(frozen=True, slots=True)
class _Record:
    """A call that will be exported; `epoch_ns` is when the monotonic clock was zero."""

    call: Ended
    works: list[Work]
    trace_id: int
    parent: Parent | None
    epoch_ns: int


class OtlpTraces:
    """Makes and exports the spans of calls. A collector that is slow, gone or broken costs spans, never an answer.

    Args:
        exporter: sends them.
        ratio: share of the calls without a parent that are traced; a parent's own decision is kept.
        version: of this server.
    """

    def __init__(self, exporter: SpanExporter, ratio: float, version: str) -> None:
        self._exporter, self._bound = exporter, round(ratio * (_LOW + 1))
        self._resource = Resource.create({"service.name": "swiftrec", "service.version": version})
        self._scope = InstrumentationScope("swiftrec", version)
        self._waiting: deque[_Record] = deque()  # append and popleft are atomic
        self._dropped = 0
        self._some, self._many = threading.Event(), threading.Event()
        self._is_closing = self._has_given_up = False
        self._thread = threading.Thread(target=self._loop, name="traces", daemon=True)

    def start(self) -> None:
        """Begin to export."""
        self._thread.start()

    def ended(self, call: Ended, parent: Parent | None, works: list[Work]) -> str:
        """Take the call; its trace id, or "" if it is not traced."""
        trace_id = parent.trace_id if parent else secrets.randbits(128) or 1
        if not (parent.is_sampled if parent else trace_id & _LOW < self._bound):
            return ""
        if len(self._waiting) >= _MOST:
            self._dropped += 1
        else:
            epoch_ns = time.time_ns() - time.monotonic_ns()
            self._waiting.append(_Record(call, works, trace_id, parent, epoch_ns))
        if not self._some.is_set():
            self._some.set()
        elif len(self._waiting) >= _BATCH and not self._many.is_set():
            self._many.set()
        return f"{trace_id:032x}"

    def hurry(self) -> None:
        """Give up what is not exported yet."""
        if not self._has_given_up:
            self._has_given_up = True
            self._exporter.shutdown()

    def stop(self, within_s: float) -> None:
        """Export what is there, no longer than that."""
        self._is_closing = True
        self._some.set()
        self._many.set()
        if self._thread.ident is not None:
            self._thread.join(within_s)
        self.hurry()

    def _loop(self) -> None:
        is_last = False
        while not is_last:
            self._some.wait()
            self._many.wait(_DELAY_S)
            is_last = self._is_closing
            self._some.clear()
            self._many.clear()
            while self._waiting and not self._has_given_up:
                self._export([self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))])

    def _export(self, records: list[_Record]) -> None:
        try:
            self._exporter.export([span for record in records for span in self._spans(record)])
        except Exception as error:  # noqa: BLE001 (whatever it is: the next export may work)
            _log.error("spans not exported", extra={"fields": {"calls": len(records), "error": type(error).__name__}})
        dropped, self._dropped = self._dropped, 0
        if dropped:
            _log.warning("spans dropped: the collector does not keep up", extra={"fields": {"calls": dropped}})

    def _spans(self, record: _Record) -> list[ReadableSpan]:
        """The call's span and one for each step of its work."""
        call, parent = record.call, record.parent
        service, _, method = call.method.removeprefix("/").partition("/")
        attributes: dict[str, str | int] = {
            "rpc.system": "grpc",
            "rpc.service": service,
            "rpc.method": method,
            "rpc.grpc.status_code": code_pb2.Code.Value(call.code),
            "swiftrec.request_id": call.request_id,
        }
        if call.code != "OK":
            attributes["error.type"] = call.code
        if record.works:
            attributes |= _bundle(record.works[-1])
        above = _context(record.trace_id, parent.span_id, is_remote=True) if parent else None
        own = _context(record.trace_id, secrets.randbits(64) or 1)
        status = Status() if call.code == "OK" else Status(StatusCode.ERROR, call.code)
        times = (call.started, call.ended)
        spans = [self._span(record, f"{service}/{method}", own, above, SpanKind.SERVER, times, attributes, status)]
        for work in record.works:
            facts = _bundle(work) | {"swiftrec.requests": work.requests}
            for name, times in work.steps.items():
                child = _context(record.trace_id, secrets.randbits(64) or 1)
                spans.append(self._span(record, name, child, own, SpanKind.INTERNAL, times, facts, Status()))
        return spans

    def _span(
        self,
        record: _Record,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        kind: SpanKind,
        times: tuple[float, float],
        attributes: Mapping[str, str | int],
        status: Status,
    ) -> ReadableSpan:
        # Steps are placed by adding up their times, so that rounding may put an end a little after the call's.
        start, end = (max(record.call.started, min(at, record.call.ended)) for at in times)
        return ReadableSpan(
            name,
            context,
            parent,
            self._resource,
            attributes,
            kind=kind,
            status=status,
            start_time=record.epoch_ns + round(start * 1e9),
            end_time=record.epoch_ns + round(end * 1e9),
            instrumentation_scope=self._scope,
        )


def open_traces(endpoint: str, ratio: float, version: str) -> OtlpTraces:
    """Traces to a collector at `http://host:port` or `https://host:port`.

    OpenTelemetry's own variables work, too: OTEL_EXPORTER_OTLP_HEADERS, OTEL_EXPORTER_OTLP_CERTIFICATE,
    OTEL_RESOURCE_ATTRIBUTES.
    """
    return OtlpTraces(OTLPSpanExporter(endpoint, timeout=_TIMEOUT_S), ratio, version)


def _context(trace_id: int, span_id: int, *, is_remote: bool = False) -> SpanContext:
    return SpanContext(trace_id, span_id, is_remote, TraceFlags(TraceFlags.SAMPLED))


def _bundle(work: Work) -> dict[str, str | int]:
    return {"swiftrec.bundle": work.bundle, "swiftrec.version": work.version}
