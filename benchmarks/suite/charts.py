"""Charts as SVG text: those of report.html, and README's comparison with other servers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from swiftrec import plots
from swiftrec.benchmarks.peers.targets import BATCH, DOCUMENTED, OURS, SPLIT, UNARY
from swiftrec.benchmarks.responses import STEPS
from swiftrec.benchmarks.suite.result import Point, Result
from swiftrec.benchmarks.suite.results import RawRows

_MAX_LINES, _MAX_LINE_POINTS = 6, 400
_OUR_MODES = {BATCH: "batches of 32", UNARY: "one request a call"}
_PEER_MODES = {SPLIT: "batches split by length", DOCUMENTED: DOCUMENTED}
_OUR_COLOUR, _PEER_COLOUR = 0, 5


class Chart(NamedTuple):
    """A chart with its title and what to look at."""

    title: str
    note: str
    svg: str


def run_charts(result: Result, raw: RawRows) -> Iterator[Chart]:
    """The charts of report.html; `svg` is empty if there is nothing to draw."""
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


def throughput(rows: Sequence[dict[str, Any]], variant: str) -> str:
    """Requests per second on one core with one encoder: this server, and the best mode of each other one.

    Returns:
        An SVG document; empty if the servers were not compared.
    """
    shown = [row for row in rows if row["variant"] == variant and (row["target"] != OURS or row["mode"] in _OUR_MODES)]
    best: dict[tuple[str, str], dict[str, Any]] = {}
    for row in sorted(shown, key=lambda row: -float(row["requests_per_s"])):
        best.setdefault((row["target"], row["mode"] if row["target"] == OURS else ""), row)
    bars = [_bar(row) for row in best.values()]
    return plots.bars(bars, f"requests per second on one core, {variant}") if bars else ""


def _bar(row: dict[str, Any]) -> plots.Bar:
    low, high = row["spread"]["requests_per_s"]
    mode, colour = (_OUR_MODES, _OUR_COLOUR) if row["target"] == OURS else (_PEER_MODES, _PEER_COLOUR)
    return plots.Bar(f"{row['target']}, {mode[row['mode']]}", round(row["requests_per_s"]), low, high, colour)
