"""The figures of a run, which the terminal, docs/results.md, report.html and `swiftrec bench compare` read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from swiftrec.benchmarks import formatting
from swiftrec.benchmarks.formatting import Table
from swiftrec.benchmarks.suite.result import Point, Result, Workload

START_UP, MEMORY, BATCHES = "start-up to the first response, s", "memory, MB", "batches of 32, recommendations/s"
_TIMES = ("p50_ms", "p95_ms", "p99_ms", "p999_ms")
_POINT = [
    "load", "offered/s", "answered/s", "goodput/s", "p50 ms", "p95 ms", "p99 ms", "p99.9 ms", "failed", "late",
    "client",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure with one value for each round; a figure that a run measures once has one.

    Args:
        name: with the unit.
        values: empty if it was not measured.
        digits: after the decimal point; None: by its size.
        is_better_high: whether a lower figure is worse.
        missing: what is printed if it was not measured.
    """

    name: str
    values: Sequence[float]
    digits: int | None = None
    is_better_high: bool = False
    missing: str = "-"

    @property
    def is_measured(self) -> bool:
        """Whether it has a value in every round."""
        return bool(self.values) and all(map(math.isfinite, self.values))

    @property
    def median(self) -> float:
        """Over the rounds."""
        return float(np.median(self.values))

    def __str__(self) -> str:
        if not self.values:
            return self.missing
        text = formatting.spread(self.values, self.digits)
        return text if len(self.values) > 1 else text.partition(" ")[0]


def workload_figures(workload: Workload) -> list[Figure]:
    """What a workload costs, CPU in microseconds a recommendation, and what the server's encoder did."""
    floor, echo, server = _costs(workload)
    hits = [] if workload.has_cache is False else workload.cache_hits.values
    return [
        Figure("floor us", floor),
        Figure("echo us", echo),
        Figure("rest us", [total - a - b for a, b, total in zip(floor, echo, server, strict=False)]),
        Figure("server us", server),
        Figure("work ratio", workload.work_ratio.values, 3, is_better_high=True),
        Figure("per CPU s", workload.per_s_core.values, is_better_high=True),
        Figure("p99 ms at 70 %", workload.p99_ms_at_70.values, 1),
        Figure("batch", _median(workload.batch_jobs.values), 2),
        Figure("padding", _median(workload.padding.values), 2),
        Figure("cache hits", _median(hits), 2, missing="off" if workload.has_cache is False else "-"),
    ]


def cost_ratios(workload: Workload) -> list[Figure]:
    """A workload's costs as multiples of each other in the same round: the speed of the machine cancels out."""
    floor, echo, server = _costs(workload)
    return [
        Figure("work ratio", workload.work_ratio.values, is_better_high=True),
        Figure("server CPU / floor", _over(server, floor)),
        Figure("server CPU / echo", _over(server, echo)),
        Figure("floor / echo", _over(floor, echo)),
    ]


def run_figures(result: Result) -> list[Figure]:
    """What is measured once, or once a start: those that were measured."""
    bound_ms, client = result.settings.get("p99_bound_ms", 0), result.client
    figures = [
        *([Figure("requests/s of the client at most", [client.ceiling_per_s])] if client else []),
        *([Figure("client, us a request", [client.client_us])] if client else []),
        Figure(START_UP, result.startup_s.values),
        Figure(MEMORY, [result.memory_mb] if result.memory_mb else [], 0),
        Figure("knee, /s", [result.knee_per_s] if result.knee_per_s else [], 0, is_better_high=True),
        Figure(f"highest rate with p99 within {bound_ms:g} ms, /s", [result.bound_per_s], 0, is_better_high=True),
        Figure("one request in flight, p50 ms", [result.alone_p50_ms], 2),
        Figure("one request in flight, p90 ms", [result.alone_p90_ms], 2),
        Figure(BATCHES, [result.batch_per_s], 0, is_better_high=True),
    ]
    return [figure for figure in figures if figure.is_measured]


def run_figure(result: Result, name: str) -> Figure | None:
    """One of `run_figures`; None if it was not measured."""
    return next((figure for figure in run_figures(result) if figure.name == name), None)


def teacher_figures(measured: Mapping[str, Any]) -> dict[str, Figure]:
    """The student over its teacher, without rounds in which it kept no rate; `bound` is the limit of the p99."""
    values = {name: [value for value in measured[f"{name}_ratio"] if value is not None] for name in ("rate", "cpu")}
    ratios = {name: Figure(f"{name} ratio", kept, 1) for name, kept in values.items()}
    return ratios | {"bound": Figure("p99 bound, ms", [measured["p99_bound_ms"]], 0)}


def tables(result: Result) -> list[Table]:
    """A row for each workload, each figure measured once, and each window of load that is not of a saturation."""
    by_workload = {f"{name} v{w.version}": workload_figures(w) for name, w in result.workloads.items()}
    names = ["workload", *(figure.name for figure in next(iter(by_workload.values()), []))]
    points = [point for point in result.points if point.loop == "open" or not point.round]
    return [
        Table(names, [[name, *map(str, figures)] for name, figures in by_workload.items()], "Workloads").without(),
        Table(["once a run", "figure"], [[figure.name, str(figure)] for figure in run_figures(result)], "The run"),
        Table(_POINT, [_point(point) for point in points], "Every window"),
    ]


def _point(point: Point) -> list[str]:
    load = f"{point.share:.0%}, round {point.round}" if point.loop == "open" else f"{point.in_flight} in flight"
    rates = [f"{point.rate:.0f}" if point.rate else "", f"{point.throughput:.0f}", f"{point.goodput:.0f}"]
    values = [getattr(point, name) for name in _TIMES]
    times = ["-" if math.isnan(value) else f"{value:.1f}" for value in values]
    return [f"{point.workload} {load}", *rates, *times, str(point.failed), str(point.late), f"{point.busy:.0%}"]


def _costs(workload: Workload) -> tuple[Sequence[float], Sequence[float], Sequence[float]]:
    return workload.floor_us.values, workload.echo_us.values, workload.server_us.values


def _median(values: Sequence[float]) -> list[float]:
    return [float(np.median(values))] if values else []


def _over(values: Sequence[float], under: Sequence[float]) -> list[float]:
    """Each round's value over another of the same round; empty if one of them is missing."""
    if len(values) != len(under):
        return []
    return [value / at if at else float("nan") for value, at in zip(values, under, strict=True)]
