"""A run in sentences: for the terminal and report.html."""

from __future__ import annotations

import math
from collections.abc import Iterator

from swiftrec.benchmarks.environment import load_warning
from swiftrec.benchmarks.suite.result import Result


def title(result: Result) -> str:
    """Bundle, encoder and device."""
    name, version, variant, device = (result.bundle.get(k, "?") for k in ("name", "version", "variant", "device"))
    return f"{name} version {version}, {variant} on {device}"


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
    """What the server keeps within the SLO; empty without an open loop."""
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


def warnings(result: Result) -> Iterator[str]:
    """Why the figures may not count."""
    if warning := load_warning(result.machine):
        yield warning
    yield from (f"not valid: {failure}" for failure in result.failures)
    if result.is_partial and result.reason:
        yield result.reason
