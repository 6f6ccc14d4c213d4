"""`swiftrec bench readme`: generates the tables and the chart of the documents from the committed reference.

It writes docs/results.md, the six figures in README.md and docs/img/throughput.svg; none of them is typed by hand.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from swiftrec.benchmarks.catalogue.result import LARGE_CATALOGUE
from swiftrec.benchmarks.formatting import Table
from swiftrec.benchmarks.peers.targets import BATCH, OURS, UNARY
from swiftrec.benchmarks.result_files import RESULTS
from swiftrec.benchmarks.suite import charts, render, rows
from swiftrec.benchmarks.suite.overview import Overview, newest_results

REFERENCE = RESULTS / "reference.json"
_COMMAND = ".venv/bin/swiftrec bench readme"
TABLES = ("<!-- tables -->", "<!-- end of tables -->")
FIGURES = ("<!-- figures -->", "<!-- end of figures -->")
_NOTHING = f"No reference run yet: `make bench` on a quiet machine, then `{_COMMAND} --reference FOLDER`"


class ReadmeSettings(BaseSettings):
    """Generate docs/results.md, README's figures and docs/img/throughput.svg from the committed reference.

    Use it after a full run with --reference FOLDER, which makes that run the reference, or with --check to see whether
    the documents are up to date. Prints nothing; exit code 1 if --check finds a difference.
    """

    model_config = SettingsConfigDict(
        cli_prog_name="swiftrec bench readme", cli_kebab_case=True, cli_implicit_flags=True
    )

    check: bool = Field(False, description="only compare the documents with the reference")
    reference: Path | None = Field(None, description="folder of the run that becomes the reference")
    file: Path = Field(REFERENCE, description="the reference")
    readme: Path = Field(Path("README.md"), description="file with the figures, between its two markers")
    tables: Path = Field(Path("docs/results.md"), description="file with the tables, between its two markers")
    chart: Path = Field(Path("docs/img/throughput.svg"), description="bar chart of requests per second")


def run(settings: ReadmeSettings) -> int:
    """Write the documents, or compare them."""
    if settings.reference:
        text = newest_results(settings.reference.parent, settings.reference).as_reference()
        settings.file.parent.mkdir(parents=True, exist_ok=True)
        settings.file.write_text(text, encoding="utf-8")
    outdated = [path for path, text in _documents(settings) if not path.exists() or path.read_text("utf-8") != text]
    if settings.check:
        for path in outdated:
            sys.stderr.write(f"{path} differs from {settings.file}: run swiftrec bench readme\n")
        return 1 if outdated else 0
    for path, text in _documents(settings):
        if path in outdated:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return 0


def _documents(settings: ReadmeSettings) -> Iterator[tuple[Path, str]]:
    """Each generated file with the text that it must have."""
    reference = Overview.read_reference(settings.file)
    for path, markers, text in (
        (settings.readme, FIGURES, render.figures(figure_table(reference)) if reference else _NOTHING),
        (settings.tables, TABLES, render.results(reference) if reference else _NOTHING),
    ):
        yield path, replace_between(path, path.read_text(encoding="utf-8"), markers, text.strip())
    if reference and (svg := throughput(reference)):
        yield settings.chart, f"{svg}\n"


def figure_table(overview: Overview) -> Table:
    """README's figures, those that were measured, with the command that measures each."""
    run = overview.run
    start_up_s, memory = run.startup_s.median, f"{run.memory_mb:.0f} MB"
    figures = [
        *_rates(overview),
        *_advantage(overview),
        ("p50 with one request in flight", f"{run.alone_p50_ms:.1f} ms", "make bench"),
        ("start-up to the first response, memory", f"{start_up_s:.1f} s, {memory}", "make bench"),
        *_search(overview),
    ]
    return Table(["what", "figure", "command"], [[what, value, f"`{command}`"] for what, value, command in figures])


def throughput(overview: Overview) -> str:
    """README's chart; empty if the servers were not compared."""
    return charts.throughput(overview.peers.rows if overview.peers else [], overview.run.bundle["variant"])


def _rates(overview: Overview) -> Iterator[tuple[str, str, str]]:
    """Requests/s with each encoder, the run's first: ours, and the fastest other server's."""
    peers = overview.peers.rows if overview.peers else []
    default = overview.run.bundle["variant"]
    for variant in sorted(dict.fromkeys(row["variant"] for row in peers), key=lambda name: name != default):
        rates = {(r["target"], r["mode"]): r["requests_per_s"] for r in peers if r["variant"] == variant}
        ours = [rates.get((OURS, mode)) for mode in (UNARY, BATCH)]
        best = max((key for key in rates if key[0] != OURS), key=rates.__getitem__, default=None)
        if best and None not in ours:
            value = f"{ours[0]:,.0f} one a call, {ours[1]:,.0f} in batches of 32; {' '.join(best)} {rates[best]:,.0f}"
            yield f"requests/s on one core, {variant}, and the fastest other server", value, "make bench-peers"


def _advantage(overview: Overview) -> Iterator[tuple[str, str, str]]:
    if overview.teacher:
        figures = rows.teacher_figures(overview.teacher.figures)
        title = f"rate at p99 <= {figures['bound']} ms, compared with the PyTorch teacher"
        yield title, f"{figures['rate'].median:.0f} times", "swiftrec bench teacher"


def _search(overview: Overview) -> Iterator[tuple[str, str, str]]:
    row = overview.catalogue.row(LARGE_CATALOGUE) if overview.catalogue else {}
    if row:
        recall = min(search["recall_10"] for search in row["search"].values())
        p50_ms = max(search["p50_ms"] for search in row["search"].values())
        value = f"recall@10 at least {recall:.3f}, p50 at most {p50_ms:.1f} ms"
        yield f"search in {LARGE_CATALOGUE:,} items, any filter", value, "swiftrec bench catalogue"


def replace_between(path: Path, text: str, markers: tuple[str, str], generated: str) -> str:
    """The text with other lines between its markers.

    Raises:
        RuntimeError: it does not have the two markers, in order and once each.
    """
    first, last = markers
    before, begin, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end or first in after:
        raise RuntimeError(f"{path}: the markers are missing: put {first} and {last} around the generated part")
    return f"{before}{first}\n{generated}\n{last}{after}"
