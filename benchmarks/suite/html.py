"""`report.html`: everything in one file, without any address that it would fetch from."""

from __future__ import annotations

from html import escape
from typing import Any

import numpy as np

from swiftrec.benchmarks.extra import need
from swiftrec.benchmarks.replies import STEPS
from swiftrec.benchmarks.suite import terminal
from swiftrec.benchmarks.suite.raw import Raw
from swiftrec.benchmarks.suite.result import Result
from swiftrec.benchmarks.suite.scenarios import by_share

REPORT = "report.html"
_NINES = (0.0, 0.5, 0.9, 0.95, 0.99, 0.999, 0.9999)
_MOST = 2_000  # points of a line
_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Swiftrec benchmark</title>
<style>body{{font:15px sans-serif;max-width:1100px;margin:2em auto}}pre{{overflow-x:auto;font-size:12px}}
.bad{{color:#a00;font-weight:bold}}</style></head><body><h1>Swiftrec benchmark</h1>{status}<pre>{block}</pre>
{figures}<h2>Machine and settings</h2><pre>{facts}</pre></body></html>
"""


def page(result: Result, raw: Raw) -> str:
    """The report.

    Raises:
        RuntimeError: the extra bench is not installed.
    """
    graphs = need("plotly.graph_objects")
    main = result.main
    drawn = [_curve(graphs, result, main), _cdf(graphs, result, raw, main), _steps(graphs, result, main)]
    drawn += [_sizes(graphs, result)]
    figures = "".join(one.to_html(full_html=False, include_plotlyjs=not n) for n, one in enumerate(drawn))
    status = "".join(f'<p class="bad">{escape(text)}</p>' for text in (*result.failures, result.reason) if text)
    facts = "\n".join(f"{name}: {value}" for name, value in {**result.machine, **result.settings}.items())
    return _PAGE.format(status=status, block=escape(terminal.block(result)), figures=figures, facts=escape(facts))


def _layout(figure: Any, title: str, x: str, y: str, **more: Any) -> Any:  # noqa: ANN401 (plotly has no types)
    figure.update_layout(title=title, xaxis_title=x, yaxis_title=y, template="plotly_white", height=420, **more)
    return figure


def _curve(graphs: Any, result: Result, main: str) -> Any:  # noqa: ANN401
    """Latency over throughput, each round a point; the line is the median of p99."""
    points = [point for point in result.points if point.workload == main and point.loop == "open"]
    figure = graphs.Figure()
    for name in ("p50_ms", "p95_ms", "p99_ms", "p999_ms"):
        heights = [getattr(point, name) for point in points]
        figure.add_scatter(x=[point.throughput for point in points], y=heights, mode="markers", name=name)
    curve = by_share(result.points, main)
    figure.add_scatter(x=[rate for rate, _, _ in curve], y=[p99 for _, p99, _ in curve], name="p99 median, by rate")
    return _layout(figure, f"Latency and throughput: {main}, Poisson", "per second", "ms", yaxis_type="log")


def _cdf(graphs: Any, result: Result, raw: Raw, main: str) -> Any:  # noqa: ANN401
    """Share of answers that are faster, on an axis where each nine has the same width."""
    figure = graphs.Figure()
    for share in sorted({point.share for point in result.points if point.workload == main and point.loop == "open"}):
        latencies = raw.latencies(main, share)
        if len(latencies):
            below = (np.arange(len(latencies)) + 0.5) / len(latencies)
            keep = np.unique(np.geomspace(1, len(latencies), min(_MOST, len(latencies))).astype(int))
            keep = len(latencies) - keep[::-1]  # dense where the nines are
            nines = -np.log10(1.0 - below[keep])
            figure.add_scatter(x=nines.tolist(), y=latencies[keep].tolist(), name=f"{share:.0%} of capacity")
    ticks = {"tickvals": [-np.log10(1 - p) for p in _NINES], "ticktext": [f"{100 * p:g} %" for p in _NINES]}
    return _layout(figure, f"Latency by share of answers: {main}", "answers", "ms", yaxis_type="log", xaxis=ticks)


def _steps(graphs: Any, result: Result, main: str) -> Any:  # noqa: ANN401
    """Median time of each step, waiting included, by load."""
    points = [point for point in result.points if point.workload == main and point.loop == "open" and point.steps]
    figure = graphs.Figure()
    for step in STEPS[:-1]:
        heights = [point.steps[step]["p50_ms"] for point in points]
        figure.add_bar(x=[f"{point.share:.0%}, round {point.round}" for point in points], y=heights, name=step)
    return _layout(figure, "Steps on the server, median, waiting included", "load", "ms", barmode="stack")


def _sizes(graphs: Any, result: Result) -> Any:  # noqa: ANN401
    figure = graphs.Figure()
    figure.add_bar(x=[f"to {edge}" for edge in result.batch_sizes], y=list(result.batch_sizes.values()))
    return _layout(figure, "Batches of the encoder at saturation", "texts in the batch", "batches")
