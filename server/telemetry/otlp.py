"""Spans by OTLP over gRPC: made of recorded times, queued and sent by OpenTelemetry."""

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

from swiftrec.server.telemetry.traces import Ended, Parent, Work

MAX_WAITING_SPANS = 8_192  # more drop the oldest; a call has about five
_EXPORT_SPANS = 512
_DELAY_MS = 1_000.0  # that a span waits for more
_TIMEOUT_S = 5.0  # of one export, retries included
_LOW = (1 << 64) - 1  # the bits of a trace id that the ratio looks at, as OpenTelemetry's samplers do


class OtlpTraces:
    """Makes the spans of calls and has them exported. A collector that is slow, gone or broken costs spans alone.

    Args:
        exporter: sends them.
        ratio: share of the calls without a parent that are traced; a parent's own decision is kept.
        version: of this server.
    """

    def __init__(self, exporter: SpanExporter, ratio: float, version: str) -> None:
        self._exporter, self._bound = _StoppableExporter(exporter), round(ratio * (_LOW + 1))
        self._resource = Resource.create({"service.name": "swiftrec", "service.version": version})
        self._scope = InstrumentationScope("swiftrec", version)
        self._processor: BatchSpanProcessor | None = None

    def start(self) -> None:
        """Begin to export."""
        self._processor = BatchSpanProcessor(self._exporter, MAX_WAITING_SPANS, _DELAY_MS, _EXPORT_SPANS)

    def ended(self, call: Ended, parent: Parent | None, works: Sequence[Work]) -> str:
        """Take the call; its trace id, or "" if it is not traced."""
        trace_id = parent.trace_id if parent else secrets.randbits(128) or 1
        if self._processor is None or not (parent.is_sampled if parent else trace_id & _LOW < self._bound):
            return ""
        for span in self._spans(call, parent, works, trace_id):
            self._processor.on_end(span)
        return f"{trace_id:032x}"

    def hurry(self) -> None:
        """Give up what is not exported yet."""
        self._exporter.shutdown()

    def stop(self, within_s: float) -> None:
        """Export what is there, no longer than that."""
        if self._processor:
            drain = threading.Thread(target=self._processor.shutdown, name="traces", daemon=True)
            with suppress(RuntimeError):  # the system allows no more threads: the spans are given up
                drain.start()
                drain.join(within_s)
        self.hurry()

    def _spans(
        self, call: Ended, parent: Parent | None, works: Sequence[Work], trace_id: int
    ) -> Iterator[ReadableSpan]:
        """The call's span and one for each step of its work."""
        epoch_ns = time.time_ns() - time.monotonic_ns()  # when the monotonic clock was zero

        def at_ns(at: float) -> int:
            # Steps are placed by adding up their times, so that rounding may put an end a little after the call's.
            return epoch_ns + round(1e9 * max(call.started, min(at, call.ended)))

        own = _context(trace_id, secrets.randbits(64) or 1)
        above = _context(trace_id, parent.span_id, is_remote=True) if parent else None
        yield ReadableSpan(
            call.method.removeprefix("/"),
            own,
            above,
            self._resource,
            _attributes(call, works),
            kind=SpanKind.SERVER,
            status=Status() if call.code == "OK" else Status(StatusCode.ERROR, call.code),
            start_time=at_ns(call.started),
            end_time=at_ns(call.ended),
            instrumentation_scope=self._scope,
        )
        for work in works:
            attributes = _bundle(work) | {"swiftrec.requests": work.requests}
            steps = work.steps.copy()  # the worker adds to those of a call that is cancelled
            for name, (started, ended) in steps.items():
                yield ReadableSpan(
                    name,
                    _context(trace_id, secrets.randbits(64) or 1),
                    own,
                    self._resource,
                    attributes,
                    start_time=at_ns(started),
                    end_time=at_ns(ended),
                    instrumentation_scope=self._scope,
                )


class _StoppableExporter(SpanExporter):
    """An exporter that may be shut down twice, and is silent from then on."""

    def __init__(self, inner: SpanExporter) -> None:
        self._inner, self._is_shut_down = inner, False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans."""
        return SpanExportResult.FAILURE if self._is_shut_down else self._inner.export(spans)

    def shutdown(self) -> None:
        """End the export that runs, and send nothing more."""
        if not self._is_shut_down:
            self._is_shut_down = True
            self._inner.shutdown()


def open_traces(endpoint: str, ratio: float, version: str) -> OtlpTraces:
    """Traces to a collector at `http://host:port` or `https://host:port`.

    OpenTelemetry's own variables work, too: OTEL_EXPORTER_OTLP_HEADERS, OTEL_EXPORTER_OTLP_CERTIFICATE,
    OTEL_RESOURCE_ATTRIBUTES.
    """
    return OtlpTraces(OTLPSpanExporter(endpoint, timeout=_TIMEOUT_S), ratio, version)


def _attributes(call: Ended, works: Sequence[Work]) -> dict[str, str | int]:
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
    return attributes | (_bundle(works[-1]) if works else {})


def _context(trace_id: int, span_id: int, *, is_remote: bool = False) -> SpanContext:
    return SpanContext(trace_id, span_id, is_remote, TraceFlags(TraceFlags.SAMPLED))


def _bundle(work: Work) -> dict[str, str | int]:
    return {"swiftrec.bundle": work.bundle, "swiftrec.version": work.version}
