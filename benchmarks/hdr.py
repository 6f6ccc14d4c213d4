"""Writes latencies as HdrHistogram logs, for tools that read them."""

from __future__ import annotations

from pathlib import Path

from swiftrec.benchmarks.optional_deps import require_module
from swiftrec.benchmarks.statistics import RequestRows

_LOWEST_US, _HIGHEST_US, _DIGITS = 1, 3_600_000_000, 3


def write_log(rows: RequestRows, path: Path, tag: str = "") -> None:
    """Write one interval with the latencies of the successful requests, in microseconds from the intended send.

    Raises:
        RuntimeError: the extra bench is not installed.
    """
    histogram, log = require_module("hdrh.histogram"), require_module("hdrh.log")
    latencies = histogram.HdrHistogram(_LOWEST_US, _HIGHEST_US, _DIGITS)
    for latency_ms in rows.latency_ms():
        latencies.record_value(max(_LOWEST_US, round(1e3 * latency_ms)))
    if len(rows):
        latencies.set_start_time_stamp(1e3 * float(rows.intended.min()))
        latencies.set_end_time_stamp(1e3 * float(rows.done.max()))
    if tag:
        latencies.set_tag(tag)
    with path.open("w", encoding="utf-8") as file:
        writer = log.HistogramLogWriter(file)
        writer.output_log_format_version()
        writer.output_legend()
        writer.output_interval_histogram(latencies)
