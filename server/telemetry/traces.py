"""Span data of calls. Only `otlp.py` uses OpenTelemetry, and is imported only if tracing is on."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Protocol

_MAX_SPANS = 32  # of one call: a stream may have any number of messages
_TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


class Steps(Protocol):
    """Wall time of the steps of a recommendation, in milliseconds."""

    tokenise_ms: float
    encode_ms: float
    rank_ms: float
    retrieve_ms: float
    total_ms: float


@dataclass(frozen=True, slots=True)
class Parent:
    """The span of the caller."""

    trace_id: int
    span_id: int
    is_sampled: bool


def read_traceparent(value: str) -> Parent | None:
    """Parse a traceparent header (W3C Trace Context, section 3.2); None if it is not valid."""
    match = _TRACEPARENT.fullmatch(value)
    if match is None or (match[1] == "00" and match[5] is not None):
        return None
    parent = Parent(int(match[2], 16), int(match[3], 16), bool(int(match[4], 16) & 1))
    return parent if parent.trace_id and parent.span_id else None


@dataclass(slots=True)
class PipelineSpan:
    """One pass through the pipeline; times are in seconds on the monotonic clock."""

    bundle: str
    version: int
    ended: float
    requests: int = 1
    steps: dict[str, tuple[float, float]] = field(default_factory=dict)

    def merge(self, other: PipelineSpan) -> None:
        """Add another request of the same batch: a step lasts from its first start to its last end."""
        self.requests += other.requests
        self.ended = max(self.ended, other.ended)
        for name, (started, ended) in other.steps.items():
            first, last = self.steps.get(name, (started, ended))
            self.steps[name] = (min(first, started), max(last, ended))


def add_span(spans: list[PipelineSpan], bundle: str, version: int, started: float, ended: float, steps: Steps) -> None:
    """Add a finished request; requests of one call that ran at the same time share a span."""
    work = PipelineSpan(bundle, version, ended, steps=_intervals(started, steps))
    last = spans[-1] if spans else None
    if last and last.bundle == bundle and last.version == version and started < last.ended:
        last.merge(work)
    elif len(spans) < _MAX_SPANS:
        spans.append(work)


def _intervals(started: float, steps: Steps) -> dict[str, tuple[float, float]]:
    """Start and end of each step that ran."""
    tokenised = started + steps.tokenise_ms / 1e3
    encoded = tokenised + steps.encode_ms / 1e3
    retrieved = started + steps.total_ms / 1e3
    intervals = {
        "tokenise": (started, tokenised),
        "encode": (tokenised, encoded),
        "rank": (encoded, encoded + steps.rank_ms / 1e3),
        "retrieve": (retrieved - steps.retrieve_ms / 1e3, retrieved),
    }
    return {name: interval for name, interval in intervals.items() if interval[1] > interval[0]}


@dataclass(frozen=True, slots=True)
class FinishedCall:
    """A finished call: "/package.Service/Method", the name of its status code, times on the monotonic clock."""

    method: str
    code: str
    started: float
    ended: float
    request_id: str


class Traces(Protocol):
    """Makes spans of finished calls."""

    def on_call_end(self, call: FinishedCall, parent: Parent | None, spans: list[PipelineSpan]) -> str:
        """Export the spans of a call; fast, and never raises. Its trace id, or "" if it is not traced."""

    def start(self) -> None:
        """Start exporting."""

    def abort(self) -> None:
        """Drop the spans that have not been exported."""

    def stop(self, within_s: float) -> None:
        """Export the remaining spans, for at most `within_s`."""
