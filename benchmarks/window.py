"""The window that clients measured: rows, CPU time, a sample of replies; what that adds up to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from swiftrec.benchmarks.machine import Reading
from swiftrec.benchmarks.replies import Sample
from swiftrec.benchmarks.summary import COLUMNS, LATE_MS, OK, Rows, summarise

_MAX_LATE_SHARE = 0.25  # of the p99: beyond it the p99 is the lateness of the client


@dataclass(frozen=True, slots=True)
class Window:
    """What clients measured from `first` to `last`.

    `rows` are of the whole run, warm-up included. `asked_tokens` are the mean tokens of all requests at hand, sent or
    not. A closed loop's window has what was answered in it, an open loop's what was intended in it.
    """

    rows: Rows
    first: Reading
    last: Reading
    sample: Sample
    asked_tokens: float
    is_open: bool
    clients: int = 1

    @property
    def seconds(self) -> float:
        """Length."""
        return self.last.planned - self.first.planned

    def measured(self) -> Rows:
        """The rows that count."""
        return self.rows.within(self.first.planned, self.last.planned, by="intended" if self.is_open else "done")

    def came(self) -> Rows:
        """The rows that were answered within the window. In overload these are fewer than were intended in it."""
        return self.rows.within(self.first.planned, self.last.planned)

    def answered(self) -> Rows:
        """The rows that were answered between the readings: those that the CPU time was spent on."""
        return self.rows.within(self.first.moment, self.last.moment)

    def save(self, path: Path) -> None:
        """Write an .npz file with everything."""
        facts = [*_clocks(self.first), *_clocks(self.last), self.asked_tokens, self.is_open]
        watched = [] if self.first.server is None or self.last.server is None else [self.first.server, self.last.server]
        sample: dict[str, Any] = {"steps": self.sample.steps_ms, "bundles": list(self.sample.bundles)}
        sample |= {"wrong": self.sample.wrong, "refused": self.sample.refused}
        np.savez(path, facts=facts, watched=watched, **sample, **self.rows.columns())  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> Window:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            *clocks, tokens, is_open = file["facts"].tolist()
            before, after = file["watched"].tolist() or (None, None)
            bundles = tuple(file["bundles"].tolist())
            sample = Sample(file["steps"], int(file["wrong"]), bundles, int(file["refused"]))
            rows = Rows(*(file[name] for name in COLUMNS))
        first, last = (_reading(clocks[:3], before), _reading(clocks[3:], after))
        return cls(rows, first, last, sample, tokens, bool(is_open))


def _clocks(reading: Reading) -> tuple[float, float, float]:
    return reading.planned, reading.moment, reading.own


def _reading(clocks: Sequence[float], server: float | None) -> Reading:
    planned, moment, own = clocks
    return Reading(planned, moment, server, own)


def joined(windows: Sequence[Window]) -> Window:
    """Those of several clients that ran at the same time, the first of which watched the server."""
    one = windows[0]
    own = sum(window.last.own - window.first.own for window in windows)
    return Window(
        rows=Rows.joined([window.rows for window in windows]),
        first=replace(one.first, own=0.0),
        last=replace(one.last, own=own),
        sample=Sample.joined([window.sample for window in windows]),
        asked_tokens=float(np.mean([window.asked_tokens for window in windows if window.asked_tokens] or [0.0])),
        is_open=one.is_open,
        clients=len(windows),
    )


def figures(window: Window, slo_ms: float, max_busy: float, max_late_ms: float, cores: int) -> dict[str, Any]:
    """The summary, and the CPU that server and clients took for each good answer in microseconds.

    `throughput` is what came within the window: beyond capacity an open loop is answered in the end, but later. `mix`
    is the mean number of tokens of the answered requests over that of the workload: below 1 the window saw short texts
    more often than they were sent, because the server prefers them and the long ones still wait. `busy` is the share
    that the clients used of their cores; `bottleneck` says in a sentence that they held the run back, or nothing.

    Args:
        window: what was measured.
        slo_ms: an answer within it is goodput.
        max_busy: share of their cores beyond which the clients are the bottleneck.
        max_late_ms: median lateness of sends beyond which they are, too.
        cores: that the clients shared.
    """
    summary = summarise(window.measured(), window.seconds, slo_ms)
    came, done = _good(window.came()), _good(window.answered())
    answers = max(1, int(done.entries.sum()))
    client_cpu = window.last.own - window.first.own
    is_watched = window.first.server is not None and window.last.server is not None
    server_cpu = window.last.server - window.first.server if is_watched else None  # type: ignore[operator]
    span = window.last.moment - window.first.moment
    busy = client_cpu / (span * min(window.clients, cores))
    return {
        **summary.as_dict(),
        "throughput": float(came.entries.sum() / window.seconds),
        "server_us": None if server_cpu is None else 1e6 * server_cpu / answers,
        "server_busy": None if server_cpu is None else server_cpu / span,
        "client_us": 1e6 * client_cpu / answers,
        "busy": busy,
        "mix": float(done.tokens.mean() / window.asked_tokens) if len(done) and window.asked_tokens else 1.0,
        "codes": window.rows.codes(),
        "steps": window.sample.percentiles(),
        "wrong": window.sample.wrong,
        "refused": window.sample.refused,
        "bundles": list(window.sample.bundles),
        "bottleneck": bottleneck(
            busy, max_busy, summary.late_p50_ms, max_late_ms, late_ms=summary.late_ms, p99_ms=summary.p99_ms
        ),
    }


def _good(rows: Rows) -> Rows:
    return rows.only(rows.code == OK)


def bottleneck(
    busy: float, max_busy: float, late_p50_ms: float, max_late_ms: float, *, late_ms: float = 0.0, p99_ms: float = 0.0
) -> str:
    """Why the client and not the server set the pace; nothing if it did not. `late_ms` is the p99 of the lateness."""
    if busy > max_busy:
        return f"the client is the bottleneck: it used {busy:.0%} of its cores; give it more of them, and --processes"
    if late_p50_ms > max_late_ms:
        return f"the client is the bottleneck: half of its sends were more than {late_p50_ms:.0f} ms late"
    if late_ms > max(LATE_MS, _MAX_LATE_SHARE * p99_ms):
        return f"the client is the bottleneck: one of 100 sends was {late_ms:.1f} ms late, the p99 is {p99_ms:.1f} ms"
    return ""
