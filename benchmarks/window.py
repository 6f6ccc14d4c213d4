"""The window of a load run that counts: its figures, and why they may be invalid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from swiftrec.benchmarks.environment import CpuReading
from swiftrec.benchmarks.responses import ResponseSample
from swiftrec.benchmarks.statistics import COLUMNS, LATE_MS, RequestRows, Summary, summarise

_MAX_LATE_SHARE = 0.25  # of the p99: beyond it the p99 shows the lateness of the client


@dataclass(frozen=True, slots=True)
class Window:
    """What clients measured between the CPU readings `first` and `last`.

    `rows` are those of the whole run, warm-up included. `mean_tokens` is that of all prepared requests, sent or not. In
    a closed loop the rows that were answered in the window count, in an open loop those intended in it.
    """

    rows: RequestRows
    first: CpuReading
    last: CpuReading
    sample: ResponseSample
    mean_tokens: float
    is_open: bool
    clients: int = 1

    @property
    def seconds(self) -> float:
        """Length of the window."""
        return self.last.planned - self.first.planned

    def measured(self) -> RequestRows:
        """The rows that count."""
        return self.rows.within(self.first.planned, self.last.planned, by="intended" if self.is_open else "done")

    def answered(self) -> RequestRows:
        """The rows answered within the window; under overload fewer than were intended in it."""
        return self.rows.within(self.first.planned, self.last.planned)

    def between_readings(self) -> RequestRows:
        """The rows answered between the CPU readings: those that the CPU time was spent on."""
        return self.rows.within(self.first.moment, self.last.moment)

    def save(self, path: Path) -> None:
        """Write everything to an .npz file."""
        readings = [[r.planned, r.moment, r.server or 0.0, r.client] for r in (self.first, self.last)]
        facts = [self.mean_tokens, self.is_open, self.first.server is not None, self.sample.wrong, self.sample.rejected]
        more: dict[str, Any] = {"steps": self.sample.steps_ms, "bundles": list(self.sample.bundles)}
        np.savez(path, readings=readings, facts=facts, **more, **self.rows.columns())  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> Window:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            tokens, is_open, has_server, wrong, rejected = file["facts"].tolist()
            sample = ResponseSample(file["steps"], int(wrong), tuple(file["bundles"].tolist()), int(rejected))
            rows = RequestRows(*(file[name] for name in COLUMNS))
            first, last = (
                CpuReading(planned, moment, server if has_server else None, client)
                for planned, moment, server, client in file["readings"].tolist()
            )
        return cls(rows, first, last, sample, tokens, bool(is_open))


def merge_windows(windows: Sequence[Window]) -> Window:
    """The windows of several clients that ran at the same time as one; the first client watched the server."""
    first = windows[0]
    client_s = sum(window.last.client - window.first.client for window in windows)
    return Window(
        rows=RequestRows.concatenate([window.rows for window in windows]),
        first=replace(first.first, client=0.0),
        last=replace(first.last, client=client_s),
        sample=ResponseSample.merge([window.sample for window in windows]),
        mean_tokens=float(np.mean([window.mean_tokens for window in windows if window.mean_tokens] or [0.0])),
        is_open=first.is_open,
        clients=len(windows),
    )


def window_figures(window: Window, slo_ms: float, max_busy: float, max_late_ms: float, cores: int) -> dict[str, Any]:
    """The summary of a window, and the CPU time of server and clients for each successful recommendation.

    Args:
        window: what was measured.
        slo_ms: a response within it counts as goodput.
        max_busy: share of their cores beyond which the clients are the bottleneck.
        max_late_ms: median lateness of sends beyond which they are, too.
        cores: number of cores that the clients share.

    Returns:
        `Summary` by field and: `throughput` of what was answered within the window; `mix`, the mean tokens of the
        answered requests over those of all requests (below 1 the window saw more short texts than were sent); `busy`,
        the share of their cores that the clients used; `bottleneck`, a sentence if the clients limited the run.
    """
    summary = summarise(window.measured(), window.seconds, slo_ms)
    answered, done = window.answered().succeeded(), window.between_readings().succeeded()
    number = max(1, int(done.entries.sum()))
    client_cpu = window.last.client - window.first.client
    span = window.last.moment - window.first.moment
    busy = client_cpu / (span * min(window.clients, cores))
    return {
        **summary.as_dict(),
        "throughput": float(answered.entries.sum() / window.seconds),
        **_server_figures(window, number, span),
        "client_us": 1e6 * client_cpu / number,
        "busy": busy,
        "mix": float(done.tokens.mean() / window.mean_tokens) if len(done) and window.mean_tokens else 1.0,
        "codes": window.rows.codes(),
        "steps": window.sample.percentiles(),
        "wrong": window.sample.wrong,
        "rejected": window.sample.rejected,
        "bundles": list(window.sample.bundles),
        "bottleneck": bottleneck(summary, busy, max_busy, max_late_ms),
    }


def _server_figures(window: Window, number: int, span: float) -> dict[str, float | None]:
    if window.first.server is None or window.last.server is None:
        return {"server_us": None, "server_busy": None}
    server_cpu = window.last.server - window.first.server
    return {"server_us": 1e6 * server_cpu / number, "server_busy": server_cpu / span}


def bottleneck(summary: Summary, busy: float, max_busy: float, max_late_ms: float) -> str:
    """Why the client and not the server limited the run; empty if it did not."""
    late_ms, late_p50_ms, p99_ms = summary.late_ms, summary.late_p50_ms, summary.p99_ms
    if busy > max_busy:
        return f"the client is the bottleneck: it used {busy:.0%} of its cores; give it more cores and --processes"
    if late_p50_ms > max_late_ms:
        return f"the client is the bottleneck: half of its sends were more than {late_p50_ms:.0f} ms late"
    if late_ms > LATE_MS and not late_ms <= _MAX_LATE_SHARE * p99_ms:
        return f"the client is the bottleneck: 1 % of the sends were {late_ms:.1f} ms late, the p99 is {p99_ms:.1f} ms"
    return ""
