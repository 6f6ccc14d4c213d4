"""An OpenTelemetry collector that keeps what it gets."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as pb_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Collector(pb_grpc.TraceServiceServicer):
    """Spans in the order of their arrival."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.endpoint = ""
        self._changed = threading.Condition()

    def Export(self, request: pb.ExportTraceServiceRequest, context: object) -> pb.ExportTraceServiceResponse:  # noqa: N802
        with self._changed:
            for resource in request.resource_spans:
                self.spans += [span for scope in resource.scope_spans for span in scope.spans]
            self._changed.notify_all()
        return pb.ExportTraceServiceResponse()

    def call(self, identity: str) -> tuple[Span, list[Span]]:
        """Wait for the call with this request id: its span and the children."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._find(identity) is not None, timeout=20), identity
            span = self._find(identity)
            assert span is not None
            return span, [entry for entry in self.spans if entry.parent_span_id == span.span_id]

    def _find(self, identity: str) -> Span | None:
        return next((span for span in self.spans if facts(span).get("swiftrec.request_id") == identity), None)


def facts(span: Span) -> dict[str, str | int]:
    """The attributes."""
    return {entry.key: entry.value.string_value or entry.value.int_value for entry in span.attributes}


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector on a free port."""
    server, collector = grpc.server(ThreadPoolExecutor(2)), Collector()
    pb_grpc.add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    collector.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield collector
    server.stop(0).wait()
