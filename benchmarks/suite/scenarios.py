"""The closed-loop ladder, the knee of the curve, and MLPerf's scenarios by their names (MLPerf Inference rules, 3).

SingleStream: one request in flight; p90 latency. Server: Poisson arrivals; the highest rate whose p99 keeps a bound.
Offline: everything is there at the beginning, as lists; throughput. The names and what they ask for are MLPerf's, the
lengths of the runs are not: these are no MLPerf results.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from swiftrec.benchmarks.suite.bench import Bench
from swiftrec.benchmarks.suite.result import Point
from swiftrec.benchmarks.summary import Rows

_KNEE = 3.0
_KEPT = 0.95  # a rate is kept if this share of it is answered
_OFFLINE_IN_FLIGHT = 4  # lists: the server is never without work, and never so far behind that it refuses


def ladder(bench: Bench, say: Callable[[str], None]) -> None:
    """Closed loop with more and more in flight; the first rung is SingleStream."""
    name = bench.settings.main
    for number in bench.plan.ladder:
        if bench.is_over():
            bench.result.notes.append(f"the ladder ends before {number} in flight: no time was left")
            return
        say(f"ladder: {name}, {number} in flight")
        found = bench.saturate(
            bench.of(name), name, bench.settings.seed + 5_000 + number, in_flight=number, seconds=_rung_s(bench)
        )
        if number == 1:
            p90 = float(np.percentile(Rows.load(Path(found["rows"])).latency_ms(), 90))
            bench.result.scenarios["SingleStream"] = {"p90_ms": p90, "p50_ms": found["p50_ms"]}
        bench.point(found, loop="closed", pattern="", round=0, in_flight=number)


def offline(bench: Bench, say: Callable[[str], None]) -> None:
    """All at once, as lists of 32."""
    if bench.is_over():
        bench.result.notes.append("Offline was not measured: no time was left")
        return
    say("Offline: lists of 32, all at once")
    found = bench.saturate(bench.server, "list", bench.settings.seed + 6_000, in_flight=_OFFLINE_IN_FLIGHT)
    bench.point(found, loop="closed", pattern="", round=0, in_flight=_OFFLINE_IN_FLIGHT)
    bench.result.scenarios["Offline"] = {"per_s": found["throughput"]}


def read_curve(bench: Bench) -> None:
    """Knee and Server from the points of the main workload's curve."""
    curve = by_share(bench.result.points, bench.settings.main)
    bench.result.knee_per_s = knee(curve)
    best = max((rate for rate, p99_ms, kept in curve if kept and p99_ms <= bench.settings.p99_bound_ms), default=0.0)
    bench.result.scenarios["Server"] = {"per_s": best, "p99_bound_ms": bench.settings.p99_bound_ms}


def by_share(points: Sequence[Point], workload: str) -> list[tuple[float, float, bool]]:
    """The curve: (rate, p99 in milliseconds, whether the rate was kept), medians over rounds, by rising share."""
    found: defaultdict[float, list[Point]] = defaultdict(list)
    for point in points:
        if point.workload == workload and point.loop == "open":
            found[point.share].append(point)
    return [
        (
            float(np.median([point.rate for point in found[share]])),
            float(np.median([point.p99_ms for point in found[share]])),
            all(
                point.failed == 0 and point.throughput >= _KEPT * point.rate * _sampling(point)
                for point in found[share]
            ),
        )
        for share in sorted(found)
    ]


def _sampling(point: Point) -> float:
    """Poisson arrivals are not exactly as many as the rate says: what was intended, as a share of the rate."""
    return 1.0 if not point.requests else min(1.0, 1.0 - 2.0 / point.requests**0.5)


def knee(curve: Sequence[tuple[float, float, bool]]) -> float:
    """The highest rate before the p99 rises above three times what it is at rest; 0 without a curve.

    At rest: the median over the rates up to half of the highest one, as one rate alone has few answers. A rate whose
    p99 is not known is neither a knee nor the end.
    """
    known = [(rate, p99_ms) for rate, p99_ms, _ in curve if np.isfinite(p99_ms)]
    low = [p99_ms for rate, p99_ms in known if rate <= curve[-1][0] / 2] or [p99_ms for _, p99_ms in known[:1]]
    found = 0.0
    for rate, p99_ms, kept in curve:
        if not kept or p99_ms > _KNEE * float(np.median(low or [0.0])):
            break
        found = rate if np.isfinite(p99_ms) else found
    return found


def _rung_s(bench: Bench) -> float:
    return max(0.3, bench.plan.seconds / 2)
