"""`report.html` of a run: one file that fetches nothing, with charts as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from swiftrec import plots
from swiftrec.benchmarks.environment import load_warning
from swiftrec.benchmarks.optional_deps import require_module
from swiftrec.benchmarks.responses import STEPS
from swiftrec.benchmarks.suite import tables
from swiftrec.benchmarks.suite.result import Point, Result
from swiftrec.benchmarks.suite.results import RawRows

REPORT = "report.html"
_TEMPLATE = Path(__file__).with_name("report.html.jinja")
_MAX_LINES, _MAX_LINE_POINTS = 6, 400


class Chart(NamedTuple):
    """A chart with its title and what to look at."""

    title: str
    note: str
    svg: str


def page(result: Result, raw: RawRows) -> str:
    """The report.

    Raises:
        RuntimeError: the extra bench is not installed.
    """
    template = require_module("jinja2").Template(_TEMPLATE.read_text(encoding="utf-8"), autoescape=True)
    rendered: str = template.render(
        title=tables.title(result),
        headline=headline(result),
        slo=slo_line(result),
        warnings=list(_warnings(result)),
        charts=[chart for chart in _charts(result, raw) if chart.svg],
        tables={"Workloads": tables.workloads(result), "Every window": tables.points(result)},
        lines=[*tables.facts(result), *result.notes],
        machine={**result.machine, "started": result.started},
        settings=result.settings,
    )
    return rendered


def headline(result: Result) -> str:
    """The run in a sentence or two."""
    workload = result.workloads.get(result.main)
    if workload is None:
        return "No workload was measured to the end of its first round."
    rate, ratio, p99_ms = (getattr(workload, f).median for f in ("per_s_core", "work_ratio", "p99_ms_at_70"))
    tail = f" At 70 % load the p99 is {p99_ms:.0f} ms." if math.isfinite(p99_ms) else ""
    if not math.isfinite(rate):
        return f"Requests of {result.main} were measured on a running server, without its CPU time.{tail}"
    share = f", and {ratio:.0%} of that time is the work itself" if math.isfinite(ratio) else ""
    return f"One core gives {rate:,.0f} recommendations per second of CPU time on {result.main}{share}.{tail}"


def slo_line(result: Result) -> str:
    """What the server keeps within the SLO."""
    slo_ms = result.settings.get("slo_ms", 0.0)
    loads = [point for point in result.points if point.workload == result.main and point.loop == "open"]
    best = max(loads, key=lambda point: point.goodput, default=None)
    if best is None:
        return ""
    bound_ms, bound = result.settings.get("p99_bound_ms", slo_ms), result.bound_per_s
    within = f"; the p99 stays within {bound_ms:g} ms up to {bound:,.0f}/s" if math.isfinite(bound) and bound else ""
    return (
        f"SLO {slo_ms:g} ms: at most {best.goodput:,.0f} recommendations/s arrive within it, "
        f"with {best.rate:,.0f}/s offered{within}."
    )


def _warnings(result: Result) -> Iterator[str]:
    if warning := load_warning(result.machine):
        yield warning
    yield from (f"not valid: {failure}" for failure in result.failures)
    if result.is_partial and result.reason:
        yield result.reason


def _charts(result: Result, raw: RawRows) -> Iterator[Chart]:
    main = result.main
    loads = [point for point in result.points if point.workload == main and point.loop == "open"]
    shares = sorted({point.share for point in loads})
    yield Chart(
        "Latency by throughput",
        f"Workload {main}, Poisson arrivals, medians over rounds. Flat lines up to the capacity are good.",
        _curve(loads, shares),
    )
    yield Chart(
        "Latency by rank",
        "At 100 on the axis is the p99, at 1,000 the p99.9, at each share of the capacity.",
        _tails(raw, main, shares),
    )
    yield Chart("Steps on the server", "Median time of each step by load, waiting included.", _steps(loads, shares))
    yield Chart(
        "Batch sizes", "Batches of the encoder at saturation, by the number of texts in them.", _batch_sizes(result)
    )


def _curve(loads: list[Point], shares: list[float]) -> str:
    series = []
    for name, label in (("p50_ms", "p50"), ("p95_ms", "p95"), ("p99_ms", "p99"), ("p999_ms", "p99.9")):
        medians = [(_median(loads, share, "throughput"), _median(loads, share, name)) for share in shares]
        series.append(plots.Line(label, sorted(point for point in medians if all(map(math.isfinite, point)))))
    return plots.lines([line for line in series if line.points], "recommendations per second", "ms", log_y=True)


def _tails(raw: RawRows, main: str, shares: list[float]) -> str:
    """Latency at 1 / (1 - share of faster requests) on a logarithmic axis: each nine is as wide as the others."""
    series = []
    for share in shares[-_MAX_LINES:]:
        latencies = raw.latencies(main, share)
        if len(latencies):
            slower = np.unique(np.geomspace(1, len(latencies), min(_MAX_LINE_POINTS, len(latencies))).astype(int))[::-1]
            points = [(len(latencies) / n, float(latencies[-n])) for n in slower.tolist()]
            series.append(plots.Line(f"{share:.0%} of capacity", points))
    return plots.lines(series, "one of this many requests is slower", "ms", log_x=True, log_y=True)


def _steps(loads: list[Point], shares: list[float]) -> str:
    series = []
    for step in STEPS:
        points = [(100 * p.share, p.steps[step]["p50_ms"]) for p in loads if p.steps]
        medians = [(x, float(np.median([y for at, y in points if at == x]))) for x in sorted({x for x, _ in points})]
        series.append(plots.Line(step, medians))
    return plots.lines([line for line in series if line.points], "% of the capacity", "ms") if shares else ""


def _batch_sizes(result: Result) -> str:
    sizes = {edge: number for edge, number in result.batch_sizes.items() if number}
    return plots.bars([plots.Bar(f"up to {edge}", number) for edge, number in sizes.items()], "batches")


def _median(loads: list[Point], share: float, field: str) -> float:
    return float(np.median([getattr(point, field) for point in loads if point.share == share]))
