"""A run as tables: for the terminal, and row by row for the report."""

from __future__ import annotations

import math
from typing import NamedTuple

from swiftrec.benchmarks import formatting
from swiftrec.benchmarks.environment import load_warning
from swiftrec.benchmarks.suite.result import Point, Repeated, Result


class Table(NamedTuple):
    """Names of the columns, and rows of cells."""

    head: list[str]
    rows: list[list[str]]


def run_text(result: Result) -> str:
    """Everything that fits on one screen."""
    seconds = f"{result.seconds:.0f} s"
    sections = [
        f"{title(result)}; {result.machine['cpu']}, {result.machine['cores']} cores, "
        f"load {result.machine['load']}; commit {result.commit}; {seconds}",
        f"SLO {result.settings.get('slo_ms', 0):g} ms; median (range) over rounds; CPU us a recommendation",
        formatting.table(*workloads(result)),
        formatting.table(*points(result)),
        "\n".join(facts(result)),
    ]
    sections += [f"WARNING: {warning}" for warning in [load_warning(result.machine)] if warning]
    sections += [f"note: {note}" for note in result.notes]
    sections += [f"NOT VALID: {failure}" for failure in result.failures]
    sections += [result.reason] if result.is_partial else []
    return "\n\n".join(section for section in sections if section)


def title(result: Result) -> str:
    """Bundle, encoder and device."""
    name, version, variant, device = (result.bundle.get(k, "?") for k in ("name", "version", "variant", "device"))
    return f"{name} version {version}, {variant} on {device}"


def workloads(result: Result) -> Table:
    """A row for each workload."""
    head = ["workload", "floor us", "echo us", "server us", "work ratio", "per CPU s", "p99 ms at 70 %"]
    rows = [
        [
            f"{name} v{workload.version}",
            *(_cell(getattr(workload, field)) for field in ("floor_us", "echo_us", "server_us")),
            _cell(workload.work_ratio, 3),
            *(_cell(getattr(workload, field)) for field in ("per_s_core", "p99_ms_at_70")),
            *(f"{getattr(workload, field).median:.2f}" for field in ("batch_jobs", "padding")),
            "off" if workload.has_cache is False else f"{workload.cache_hits.median:.2f}",
        ]
        for name, workload in result.workloads.items()
    ]
    return Table([*head, "batch", "padding", "cache hits"], rows)


def points(result: Result) -> Table:
    """A row for each window of the open loops, and of the closed loops after the rounds."""
    head = ["load", "offered/s", "answered/s", "goodput/s", "p50 ms", "p95 ms", "p99 ms", "p99.9 ms", "failed", "late"]
    shown = [point for point in result.points if point.loop == "open" or not point.round]
    return Table([*head, "client"], [_point(point) for point in shown])


def _point(point: Point) -> list[str]:
    load = f"{point.share:.0%}, round {point.round}" if point.loop == "open" else f"{point.in_flight} in flight"
    rates = [f"{point.rate:.0f}" if point.rate else "", f"{point.throughput:.0f}", f"{point.goodput:.0f}"]
    values = [getattr(point, name) for name in ("p50_ms", "p95_ms", "p99_ms", "p999_ms")]
    times = ["-" if math.isnan(value) else f"{value:.1f}" for value in values]
    return [f"{point.workload} {load}", *rates, *times, str(point.failed), str(point.late), f"{point.busy:.0%}"]


def facts(result: Result) -> list[str]:
    """What was measured once: client, start-up, memory, knee, rates and latency alone."""
    bound_ms = result.settings.get("p99_bound_ms", 0)
    client = result.client
    lines = [f"client: at most {client.ceiling_per_s:.0f} requests/s, {client.client_us:.0f} us each"] if client else []
    if result.startup_s.values:
        memory = f"memory {result.memory_mb:.0f} MB"
        lines.append(f"start-up to the first response: {_cell(result.startup_s)} s; {memory}")
    lines.append(f"knee: {result.knee_per_s:.0f}/s")
    figures = {
        f"highest rate with p99 within {bound_ms:g} ms: {result.bound_per_s:.0f}/s": result.bound_per_s,
        f"one in flight: p50 {result.alone_p50_ms:.2f} ms, p90 {result.alone_p90_ms:.2f} ms": result.alone_p50_ms,
        f"batches of 32: {result.batch_per_s:.0f} recommendations/s": result.batch_per_s,
    }
    return [*lines, *(line for line, value in figures.items() if math.isfinite(value))]


def _cell(repeated: Repeated, digits: int | None = None) -> str:
    return formatting.spread(repeated.values, digits) if repeated.values else "-"
