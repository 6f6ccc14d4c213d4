"""Fills the templates in this folder: report.html of a run, and the generated parts of the documents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from swiftrec.benchmarks.catalogue import result as catalogue
from swiftrec.benchmarks.formatting import Table
from swiftrec.benchmarks.optional_deps import require_module
from swiftrec.benchmarks.peers import tables as peers
from swiftrec.benchmarks.suite import charts, rows, sentences
from swiftrec.benchmarks.suite.overview import Overview
from swiftrec.benchmarks.suite.result import Result
from swiftrec.benchmarks.suite.results import RawRows

REPORT = "report.html"
_PEER_DETAILS = ("batches", "transport", "by CPU", "core busy")


def report(result: Result, raw: RawRows) -> str:
    """report.html: one file that fetches nothing, with charts as inline SVG.

    Raises:
        RuntimeError: the extra bench is not installed.
    """
    return _render(
        "report.html.jinja",
        result=result,
        title=sentences.title(result),
        headline=sentences.headline(result),
        slo=sentences.slo_line(result),
        warnings=list(sentences.warnings(result)),
        charts=[chart for chart in charts.run_charts(result, raw) if chart.svg],
        tables=rows.tables(result),
    )


def results(overview: Overview) -> str:
    """The generated part of docs/results.md.

    Raises:
        RuntimeError: the extra bench is not installed.
    """
    run, folders = overview.run, overview.folders
    compared = overview.peers.rows if overview.peers else []
    return _render(
        "results.md.jinja",
        run=run,
        rounds=max((len(workload.server_us.values) for workload in run.workloads.values()), default=0),
        tables=rows.tables(run),
        teacher=rows.teacher_figures(overview.teacher.figures) if overview.teacher else {},
        peers=peers.peers(compared).without(*_PEER_DETAILS),
        peer_rounds=max((len(row["rounds"]) for row in compared), default=0),
        peer_notes=list(peers.notes(compared, overview.peers.skipped)) if overview.peers else [],
        catalogue=catalogue.tables(overview.catalogue.rows) if overview.catalogue else [],
        others=[f"{name} {folder}" for name, folder in folders.items() if folder != folders["run"]],
    )


def figures(table: Table) -> str:
    """README's figures as a Markdown table.

    Raises:
        RuntimeError: the extra bench is not installed.
    """
    return _render("figures.md.jinja", figures=table)


def _render(template: str, **values: Any) -> str:  # noqa: ANN401 (what the template reads)
    jinja2 = require_module("jinja2")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=jinja2.select_autoescape(["html.jinja"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    rendered: str = environment.get_template(template).render(values)
    return rendered
