"""Closed-loop steps, the rate of batches, and what the latency-throughput curve shows: knee and rate within a bound."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from swiftrec.benchmarks.statistics import RequestRows
from swiftrec.benchmarks.suite.context import BenchContext
from swiftrec.benchmarks.suite.result import Point

_KNEE = 3.0
_REACHED_SHARE = 0.95  # a rate is reached if this share of it is answered
_BATCHES_IN_FLIGHT = 4  # the server always has work, and never so much that it rejects


class CurvePoint(NamedTuple):
    """A rate with its p99 in milliseconds, and whether it was reached: medians over rounds."""

    rate: float
    p99_ms: float
    is_reached: bool


def closed_loop_steps(bench: BenchContext, progress: Callable[[str], None]) -> None:
    """Closed loop with more and more requests in flight; the first step gives the latency alone."""
    name = bench.settings.main
    for number in bench.size.in_flight_steps:
        if bench.is_over():
            bench.result.notes.append(f"{number} in flight and more were not measured: no time was left")
            return
        progress(f"closed loop: {name}, {number} in flight")
        seconds = max(0.3, bench.size.seconds / 2)
        seed = bench.settings.seed + 5_000 + number
        figures = bench.saturate(bench.server_of(name), name, seed, in_flight=number, seconds=seconds)
        if number == 1:
            bench.result.alone_p50_ms = figures["p50_ms"]
            bench.result.alone_p90_ms = float(np.percentile(RequestRows.load(Path(figures["rows"])).latency_ms(), 90))
        bench.add_point(figures, loop="closed", pattern="", round=0, in_flight=number)


def batch_rate(bench: BenchContext, progress: Callable[[str], None]) -> None:
    """Recommendations per second in batches of 32, with the server always busy."""
    if bench.is_over():
        bench.result.notes.append("batches of 32 were not measured: no time was left")
        return
    progress("batches of 32, the server always busy")
    figures = bench.saturate(bench.server, "list", bench.settings.seed + 6_000, in_flight=_BATCHES_IN_FLIGHT)
    bench.add_point(figures, loop="closed", pattern="", round=0, in_flight=_BATCHES_IN_FLIGHT)
    bench.result.batch_per_s = figures["throughput"]


def read_curve(bench: BenchContext) -> None:
    """Knee and rate within the bound, from the points of the main workload's curve."""
    curve = by_share(bench.result.points, bench.settings.main)
    bound_ms = bench.settings.p99_bound_ms
    bench.result.knee_per_s = knee(curve)
    bench.result.bound_per_s = max((p.rate for p in curve if p.is_reached and p.p99_ms <= bound_ms), default=0.0)


def by_share(points: Sequence[Point], workload: str) -> list[CurvePoint]:
    """The curve of a workload, by rising share of the capacity."""
    shares: defaultdict[float, list[Point]] = defaultdict(list)
    for point in points:
        if point.workload == workload and point.loop == "open":
            shares[point.share].append(point)
    return [
        CurvePoint(
            float(np.median([point.rate for point in shares[share]])),
            float(np.median([point.p99_ms for point in shares[share]])),
            all(_is_reached(point) for point in shares[share]),
        )
        for share in sorted(shares)
    ]


def _is_reached(point: Point) -> bool:
    """Whether the intended rate was answered; the number of Poisson arrivals varies around the rate."""
    sampling = 1.0 if not point.requests else min(1.0, 1.0 - 2.0 / point.requests**0.5)
    return point.failed == 0 and point.throughput >= _REACHED_SHARE * point.rate * sampling


def knee(curve: Sequence[CurvePoint]) -> float:
    """The highest rate before the p99 rises above three times its value at low load; 0 without a curve.

    Its value at low load is the median over the rates up to half of the highest one, since a single rate has few
    responses. A rate without a p99 is neither a knee nor the end.
    """
    known = [point for point in curve if np.isfinite(point.p99_ms)]
    low = [point.p99_ms for point in known if point.rate <= curve[-1].rate / 2]
    low = low or [point.p99_ms for point in known[:1]] or [0.0]
    highest = 0.0
    for point in curve:
        if not point.is_reached or point.p99_ms > _KNEE * float(np.median(low)):
            break
        highest = point.rate if np.isfinite(point.p99_ms) else highest
    return highest
