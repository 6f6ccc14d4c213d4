"""What is noted of a call for its span. Only `otlp.py` knows OpenTelemetry; it is imported if traces are on."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Protocol

_MOST_WORKS = 32  # of one call: a stream may have any number of messages
_TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


class Steps(Protocol):
    """Wall time of a recommendation's steps, in milliseconds."""

    tokenise_ms: float
    encode_ms: float
    rank_ms: float
    retrieve_ms: float
    total_ms: float


@dataclass(frozen=True, slots=True)
class Parent:
    """The caller's span."""

    trace_id: int
    span_id: int
    is_sampled: bool


def read_traceparent(value: str) -> Parent | None:
    """The caller's span by W3C Trace Context, section 3.2; None if the header is not valid."""
    match = _TRACEPARENT.fullmatch(value)
    if match is None or (match[1] == "00" and match[5] is not None):
        return None
    parent = Parent(int(match[2], 16), int(match[3], 16), bool(int(match[4], 16) & 1))
    return parent if parent.trace_id and parent.span_id else None


@dataclass(slots=True)
class Work:
    """What the pipeline did for a call, in one go; times are in seconds on the monotonic clock."""

    bundle: str
    version: int
    ended: float
    requests: int = 1
    steps: dict[str, tuple[float, float]] = field(default_factory=dict)

    def merge(self, other: Work) -> None:
        """Add another request of the same list: a step lasts from its first start to its last end."""
        self.requests += other.requests
        self.ended = max(self.ended, other.ended)
        for name, (started, ended) in other.steps.items():
            first, last = self.steps.get(name, (started, ended))
            self.steps[name] = (min(first, started), max(last, ended))


def note(works: list[Work], bundle: str, version: int, started: float, ended: float, steps: Steps) -> None:
    """Add a request that was answered; requests of one call that ran at the same time are one piece of work."""
    work = Work(bundle, version, ended, steps=_intervals(started, steps))
    last = works[-1] if works else None
    if last and last.bundle == bundle and last.version == version and started < last.ended:
        last.merge(work)
    elif len(works) < _MOST_WORKS:
        works.append(work)


def _intervals(started: float, steps: Steps) -> dict[str, tuple[float, float]]:
    """From when to when each step ran, without those that did not."""
    tokenised = started + steps.tokenise_ms / 1e3
    encoded = tokenised + steps.encode_ms / 1e3
    retrieved = started + steps.total_ms / 1e3
    found = {
        "tokenise": (started, tokenised),
        "encode": (tokenised, encoded),
        "rank": (encoded, encoded + steps.rank_ms / 1e3),
        "retrieve": (retrieved - steps.retrieve_ms / 1e3, retrieved),
    }
    return {name: interval for name, interval in found.items() if interval[1] > interval[0]}


@dataclass(frozen=True, slots=True)
class Ended:
    """A call that has ended: "/package.Service/Method", its code's name, times on the monotonic clock."""

    method: str
    code: str
    started: float
    ended: float
    request_id: str


class Traces(Protocol):
    """Where calls that have ended become spans."""

    def ended(self, call: Ended, parent: Parent | None, works: list[Work]) -> str:
        """Take the call; quick and never raises. Its trace id, or "" if it is not traced."""

    def start(self) -> None:
        """Begin to export."""

    def hurry(self) -> None:
        """Give up what is not exported yet."""

    def stop(self, within_s: float) -> None:
        """Export what is there, no longer than that."""
