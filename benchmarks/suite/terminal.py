"""The result as a block for the terminal."""

from __future__ import annotations

import math

from swiftrec.benchmarks import report
from swiftrec.benchmarks.suite import apart
from swiftrec.benchmarks.suite.result import Point, Repeated, Result


def block(result: Result) -> str:
    """Everything that one screen holds."""
    bundle = result.bundle
    head = f"{bundle.get('name', '?')} version {bundle.get('version', '?')}, {bundle.get('variant', '?')}"
    parts = [
        f"{head} on {bundle.get('device', '?')}; {result.machine['cpu']}, {result.machine['cores']} cores, "
        f"load {result.machine['load']}; commit {result.commit}; {result.seconds:.0f} s",
        f"SLO {result.settings.get('slo_ms', 0):g} ms; median (least-most) over rounds; CPU us a recommendation",
        _workloads(result),
        _points(result),
        _facts(result),
        *apart.block(result),
    ]
    parts += [f"note: {note}" for note in result.notes]
    parts += [f"NOT VALID: {failure}" for failure in result.failures]
    parts += [result.reason] if result.is_partial else []
    return "\n\n".join(part for part in parts if part)


def _workloads(result: Result) -> str:
    head = ["workload", "floor us", "echo us", "server us", "work ratio", "per CPU s", "p99 ms at 70 %"]
    head += ["batch", "padding", "cache hits"]
    rows = [
        [
            f"{name} v{found.version}",
            *(_cell(getattr(found, field)) for field in ("floor_us", "echo_us", "server_us")),
            _cell(found.work_ratio, 3),
            *(_cell(getattr(found, field)) for field in ("per_s_core", "p99_ms_at_70")),
            *(f"{getattr(found, field).median:.2f}" for field in ("batch_jobs", "padding")),
            "off" if found.has_cache is False else f"{found.cache_hits.median:.2f}",
        ]
        for name, found in result.workloads.items()
    ]
    return report.table(head, rows)


def _points(result: Result) -> str:
    head = ["load", "offered/s", "answered/s", "goodput/s", "p50 ms", "p95 ms", "p99 ms", "p99.9 ms", "failed", "late"]
    return report.table(
        [*head, "client"], [_row(point) for point in result.points if point.loop == "open" or not point.round]
    )


def _row(point: Point) -> list[str]:
    what = f"{point.share:.0%}, round {point.round}" if point.loop == "open" else f"{point.in_flight} in flight"
    rates = [f"{point.rate:.0f}" if point.rate else "", f"{point.throughput:.0f}", f"{point.goodput:.0f}"]
    found = [getattr(point, name) for name in ("p50_ms", "p95_ms", "p99_ms", "p999_ms")]
    times = ["-" if math.isnan(value) else f"{value:.1f}" for value in found]
    return [f"{point.workload} {what}", *rates, *times, str(point.failed), str(point.late), f"{point.busy:.0%}"]


def _facts(result: Result) -> str:
    lines = []
    if result.client:
        lines.append(
            f"client: at most {result.client.ceiling_per_s:.0f} requests/s, {result.client.client_us:.0f} us each"
        )
    if result.startup_s.values:
        lines.append(f"start-up to first good answer: {_cell(result.startup_s)} s; memory {result.memory_mb:.0f} MB")
    lines.append(f"knee: {result.knee_per_s:.0f}/s")
    for name, figures in result.scenarios.items():
        lines.append(
            f"{name}, as MLPerf's (no MLPerf result): "
            + ", ".join(f"{key} {value:.2f}" for key, value in figures.items())
        )
    return "\n".join(lines)


def _cell(found: Repeated, digits: int | None = None) -> str:
    return report.spread(found.values, digits) if found.values else "-"
