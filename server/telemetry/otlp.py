"""Exports spans by OTLP over gRPC; OpenTelemetry queues and sends them."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress

from google.rpc import code_pb2
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.status import Status, StatusCode

from swiftrec.server.telemetry.traces import FinishedCall, Parent, PipelineSpan

MAX_WAITING_SPANS = 8_192  # further spans replace the oldest; a call has about five
_MAX_EXPORT_SPANS = 512
_EXPORT_DELAY_MS = 1_000.0  # longest wait of a span for others to export with it
_EXPORT_TIMEOUT_S = 5.0  # retries included
_SAMPLED_BITS = (1 << 64) - 1  # bits of a trace id that decide whether it is sampled, as in OpenTelemetry's samplers


class OtlpTraces:
    """Makes the spans of calls and exports them. A slow or failing collector loses spans, but delays no call.

    Args:
        exporter: sends spans.
        ratio: share of the calls without a parent that are traced; calls with a parent follow its decision.
        version: of the server.
    """

    def __init__(self, exporter: SpanExporter, ratio: float, version: str) -> None:
        self._exporter, self._bound = _StoppableExporter(exporter), round(ratio * (_SAMPLED_BITS + 1))
        self._resource = Resource.create({"service.name": "swiftrec", "service.version": version})
        self._scope = InstrumentationScope("swiftrec", version)
        self._processor: BatchSpanProcessor | None = None

    def start(self) -> None:
        """Start exporting."""
        self._processor = BatchSpanProcessor(self._exporter, MAX_WAITING_SPANS, _EXPORT_DELAY_MS, _MAX_EXPORT_SPANS)

    def on_call_end(self, call: FinishedCall, parent: Parent | None, spans: Sequence[PipelineSpan]) -> str:
        """Export the spans of a call; its trace id, or "" if it is not traced."""
        trace_id = parent.trace_id if parent else secrets.randbits(128) or 1
        if self._processor is None or not (parent.is_sampled if parent else trace_id & _SAMPLED_BITS < self._bound):
            return ""
        for span in self._spans(call, parent, spans, trace_id):
            self._processor.on_end(span)
        return f"{trace_id:032x}"

    def abort(self) -> None:
        """Drop the spans that have not been exported."""
        self._exporter.shutdown()

    def stop(self, within_s: float) -> None:
        """Export the remaining spans, for at most `within_s`."""
        if self._processor:
            drain = threading.Thread(target=self._processor.shutdown, name="traces", daemon=True)
            with suppress(RuntimeError):  # the system allows no more threads: drop the spans
                drain.start()
                drain.join(within_s)
        self.abort()

    def _spans(
        self, call: FinishedCall, parent: Parent | None, spans: Sequence[PipelineSpan], trace_id: int
    ) -> Iterator[ReadableSpan]:
        """The span of the call and one for each step of its pipeline spans."""
        epoch_ns = time.time_ns() - time.monotonic_ns()  # when the monotonic clock was zero

        def at_ns(at: float) -> int:
            # Ends of steps are sums of times, so rounding may put one a little after the end of the call.
            return epoch_ns + round(1e9 * max(call.started, min(at, call.ended)))

        context = _context(trace_id, secrets.randbits(64) or 1)
        parent_context = _context(trace_id, parent.span_id, is_remote=True) if parent else None
        yield ReadableSpan(
            call.method.removeprefix("/"),
            context,
            parent_context,
            self._resource,
            _attributes(call, spans),
            kind=SpanKind.SERVER,
            status=Status() if call.code == "OK" else Status(StatusCode.ERROR, call.code),
            start_time=at_ns(call.started),
            end_time=at_ns(call.ended),
            instrumentation_scope=self._scope,
        )
        for work in spans:
            attributes = _bundle(work) | {"swiftrec.requests": work.requests}
            steps = work.steps.copy()  # the worker may still add steps of a cancelled call
            for name, (started, ended) in steps.items():
                yield ReadableSpan(
                    name,
                    _context(trace_id, secrets.randbits(64) or 1),
                    context,
                    self._resource,
                    attributes,
                    start_time=at_ns(started),
                    end_time=at_ns(ended),
                    instrumentation_scope=self._scope,
                )


class _StoppableExporter(SpanExporter):
    """An exporter that can be shut down more than once."""

    def __init__(self, inner: SpanExporter) -> None:
        self._inner, self._is_shut_down = inner, False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans."""
        return SpanExportResult.FAILURE if self._is_shut_down else self._inner.export(spans)

    def shutdown(self) -> None:
        """End the current export, and send nothing more."""
        if not self._is_shut_down:
            self._is_shut_down = True
            self._inner.shutdown()


def open_traces(endpoint: str, ratio: float, version: str) -> OtlpTraces:
    """Export traces to a collector at `http://host:port` or `https://host:port`.

    OpenTelemetry's own environment variables also apply: OTEL_EXPORTER_OTLP_HEADERS, OTEL_EXPORTER_OTLP_CERTIFICATE,
    OTEL_RESOURCE_ATTRIBUTES.
    """
    return OtlpTraces(OTLPSpanExporter(endpoint, timeout=_EXPORT_TIMEOUT_S), ratio, version)


def _attributes(call: FinishedCall, spans: Sequence[PipelineSpan]) -> dict[str, str | int]:
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
    return attributes | (_bundle(spans[-1]) if spans else {})


def _context(trace_id: int, span_id: int, *, is_remote: bool = False) -> SpanContext:
    return SpanContext(trace_id, span_id, is_remote, TraceFlags(TraceFlags.SAMPLED))


def _bundle(work: PipelineSpan) -> dict[str, str | int]:
    return {"swiftrec.bundle": work.bundle, "swiftrec.version": work.version}
