"""Spans are queued and exported by OpenTelemetry; an exporter that hangs or fails costs spans, and nothing waits."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from swiftrec.server.telemetry.otlp import MAX_WAITING_SPANS, OtlpTraces
from swiftrec.server.telemetry.traces import FinishedCall, PipelineSpan
from tests.until import LONG, until

_STEPS = {"tokenise": (1.0, 1.25), "encode": (1.25, 2.0)}


class Exporter(SpanExporter):
    """Keeps the spans it gets; `gate` holds an export until shutdown, and `fails` makes one export fail."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []
        self.threads: set[str] = set()
        self.shutdowns = 0
        self.fails = False
        self.entered, self.gate = threading.Event(), threading.Event()
        self.gate.set()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.threads.add(threading.current_thread().name)
        self.entered.set()
        assert self.gate.wait(LONG)
        if self.fails:
            self.fails = False
            raise ConnectionError("no collector")
        self.spans += spans
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        self.shutdowns += 1
        self.gate.set()


@pytest.fixture
def exporter() -> Exporter:
    return Exporter()


@pytest.fixture
def traces(exporter: Exporter) -> Iterator[OtlpTraces]:
    traces = OtlpTraces(exporter, 1.0, "1.2.3")
    traces.start()
    yield traces
    traces.stop(LONG)


def end(traces: OtlpTraces, number: int = 1) -> str:
    """Calls of three spans each that have ended; the trace id of the last one."""
    work = PipelineSpan("b", 1, 3.0, steps=_STEPS)
    for n in range(number):
        trace_id = traces.on_call_end(
            FinishedCall("/package.Service/Method", "OK", 1.0, 3.0, f"call {n}"), None, [work]
        )
    return trace_id


def test_spans_are_exported_by_the_processor_of_opentelemetry(traces: OtlpTraces, exporter: Exporter) -> None:
    trace_id = end(traces)
    traces.stop(LONG)
    call, *steps = exporter.spans
    assert (call.name, [step.name for step in steps]) == ("package.Service/Method", list(_STEPS))
    assert all(step.parent == call.context for step in steps)
    assert {f"{span.context.trace_id:032x}" for span in exporter.spans if span.context} == {trace_id}
    assert {name.startswith("OtelBatchSpan") for name in exporter.threads} == {True}


def test_stop_exports_queued_spans_and_shuts_down_once(traces: OtlpTraces, exporter: Exporter) -> None:
    end(traces, 1_000)
    traces.stop(LONG)
    assert (len(exporter.spans), exporter.shutdowns) == (3_000, 1)
    traces.abort()
    assert exporter.shutdowns == 1


def test_stop_abandons_a_hanging_export(traces: OtlpTraces, exporter: Exporter) -> None:
    exporter.gate.clear()
    end(traces, 1_000)
    assert exporter.entered.wait(LONG)
    traces.stop(0.01)  # it would never return, were the exporter not shut down
    assert exporter.shutdowns == 1


def test_abort_ends_the_running_export_and_drops_the_rest(traces: OtlpTraces, exporter: Exporter) -> None:
    exporter.gate.clear()
    end(traces, 1_000)
    assert exporter.entered.wait(LONG)
    traces.abort()
    traces.stop(LONG)
    assert len(exporter.spans) < 1_000
    assert exporter.shutdowns == 1


def test_calls_never_wait_for_an_exporter_and_queued_spans_are_bounded(traces: OtlpTraces, exporter: Exporter) -> None:
    exporter.gate.clear()
    end(traces, MAX_WAITING_SPANS)  # three times as many spans
    assert exporter.entered.wait(LONG)
    exporter.gate.set()
    traces.stop(LONG)
    assert MAX_WAITING_SPANS <= len(exporter.spans) < 2 * MAX_WAITING_SPANS


def test_failed_export_loses_only_its_spans(traces: OtlpTraces, exporter: Exporter) -> None:
    exporter.fails = True
    end(traces, 600)
    until(lambda: not exporter.fails)
    end(traces, 10)
    traces.stop(LONG)
    assert 30 <= len(exporter.spans) < 1_830


def test_call_that_ends_while_its_steps_are_recorded_is_exported(
    traces: OtlpTraces, exporter: Exporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, numbers = PipelineSpan("b", 1, 3.0, steps=dict(_STEPS)), itertools.count(1)

    def note_meanwhile(_bits: int) -> int:  # between two spans
        number = next(numbers)
        work.merge(PipelineSpan("b", 1, 3.0, steps={f"step {number}": (1.0, 2.0)}))
        return number

    monkeypatch.setattr("swiftrec.server.telemetry.otlp.secrets.randbits", note_meanwhile)
    traces.on_call_end(FinishedCall("/package.Service/Method", "CANCELLED", 1.0, 3.0, "cancelled"), None, [work])
    traces.stop(LONG)
    assert {"tokenise", "encode"} < {span.name for span in exporter.spans}


def test_calls_before_the_start_are_not_traced(exporter: Exporter) -> None:
    traces = OtlpTraces(exporter, 1.0, "1.2.3")
    assert end(traces) == ""
    traces.stop(0.0)
    assert (exporter.spans, exporter.shutdowns) == ([], 1)
