"""`swiftrec bench readme`: generates the tables and the chart of the documents from the committed reference.

It writes docs/results.md, the six figures in README.md and docs/img/throughput.svg; none of them is typed by hand.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from swiftrec import plots
from swiftrec.benchmarks import formatting
from swiftrec.benchmarks.bundle_id import BundleId
from swiftrec.benchmarks.catalogue.result import IN_PROCESS
from swiftrec.benchmarks.peers.tables import few_rounds, label
from swiftrec.benchmarks.peers.targets import BATCH, DOCUMENTED, OURS, SPLIT, UNARY
from swiftrec.benchmarks.result_files import RESULTS
from swiftrec.benchmarks.suite.result import Result
from swiftrec.benchmarks.suite.summary import Overview, newest_results, not_full

REFERENCE = RESULTS / "reference.json"
_COMMAND = ".venv/bin/swiftrec bench readme"
TABLES = ("<!-- tables -->", "<!-- end of tables -->")
FIGURES = ("<!-- figures -->", "<!-- end of figures -->")
_NOTHING = f"No reference run yet: `make bench` on a quiet machine, then `{_COMMAND} --reference FOLDER`"
_UNKNOWN_BUNDLE = "; the reference does not name its bundle's export key, so they may be of another bundle"
_WORKLOAD_FIELDS = ("floor_us", "echo_us", "server_us", "work_ratio", "per_s_core", "p99_ms_at_70")
_RUN_FIELDS = ("machine", "commit", "started", "bundle", "memory_mb", "alone_p50_ms", "alone_p90_ms", "batch_per_s")
_LARGE_CATALOGUE = 1_000_000
_FIXED_MODES = {UNARY: "one request a call", BATCH: "batches of 32"}
Reference = Mapping[str, Any]


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


class Figure(NamedTuple):
    """A row of README's figures."""

    title: str
    value: str
    command: str


def run(settings: ReadmeSettings) -> int:
    """Write the documents, or compare them."""
    if settings.reference:
        overview = newest_results(settings.reference.parent, settings.reference)
        settings.file.parent.mkdir(parents=True, exist_ok=True)
        settings.file.write_text(json.dumps(make_reference(overview), indent=1) + "\n", encoding="utf-8")
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
    reference = _read(settings.file)
    figures = figure_table(list(figure_rows(reference))) if reference else _NOTHING
    for path, markers, text in (
        (settings.readme, FIGURES, figures),
        (settings.tables, TABLES, tables(reference) if reference else _NOTHING),
    ):
        yield path, replace_between(path, path.read_text(encoding="utf-8"), markers, text)
    if svg := throughput_chart(reference):
        yield settings.chart, f"{svg}\n"


def make_reference(overview: Overview) -> dict[str, Any]:
    """What the documents need of the newest results.

    Raises:
        RuntimeError: the run is partial, invalid, incomplete, or a smoke run.
    """
    folder, result = overview.run
    if reason := not_full(result):
        raise RuntimeError(f"{folder} cannot be the reference ({reason}): run swiftrec bench to its end")
    if missing := [name for name in ("alone_p50_ms", "batch_per_s") if not np.isfinite(getattr(result, name))]:
        raise RuntimeError(
            f"{folder} cannot be the reference: {' and '.join(missing)} were not measured in time: raise --budget-s"
        )
    reference: dict[str, Any] = {"bench": _run_part(folder, result)}
    if overview.peers:
        folder, peers = overview.peers
        reference["peers"] = {"folder": folder.name, "skipped": peers.skipped, "rows": peers.rows}
    if overview.catalogue:
        folder, catalogue = overview.catalogue
        reference["catalogue"] = {"folder": folder.name, "rows": catalogue.rows}
    if overview.teacher:
        folder, teacher = overview.teacher
        reference["teacher"] = {"folder": folder.name, **teacher.figures}
    finite: dict[str, Any] = formatting.finite(reference)
    return finite


def _run_part(folder: Path, result: Result) -> dict[str, Any]:
    workloads = {
        name: {field: getattr(workload, field).values for field in _WORKLOAD_FIELDS}
        for name, workload in result.workloads.items()
    }
    fields = {name: getattr(result, name) for name in _RUN_FIELDS}
    return {"folder": folder.name, **fields, "startup_s": result.startup_s.values, "workloads": workloads}


def tables(reference: Reference) -> str:
    """The Markdown of docs/results.md."""
    run, peers, catalogue = (reference.get(name, {}) for name in ("bench", "peers", "catalogue"))
    sections = [
        _workloads(run),
        _once(run),
        _teacher(reference.get("teacher", {})),
        _peers(peers.get("rows", []), peers.get("skipped", {})),
        _catalogue(catalogue.get("rows", [])),
        _sources(reference),
    ]
    return "\n\n".join("\n".join(section) for section in sections if section)


def _workloads(run: Reference) -> list[str]:
    machine, bundle = run["machine"], run["bundle"]
    rounds = len(next(iter(run["workloads"].values()))["server_us"])
    lines = [
        f"{machine['cpu']}, one core for the server, one for the client; {bundle['name']}, {bundle['variant']}; commit "
        f"{run['commit']}, {run['started'][:10]}. Medians of {rounds} interleaved rounds (range).",
        "",
        "| workload | CPU floor + echo + rest = server, µs | work ratio | per CPU second | p99 at 70 % load, ms |",
        "|---|---|---|---|---|",
    ]
    for name, values in run["workloads"].items():
        floor, echo, server = (float(np.median(values[field])) for field in ("floor_us", "echo_us", "server_us"))
        cost = f"{floor:.0f} + {echo:.0f} + {server - floor - echo:.0f} = {server:.0f}"
        digits = {"work_ratio": 2, "per_s_core": 0, "p99_ms_at_70": 0}
        cells = [_spread(values[field], number) for field, number in digits.items()]
        lines.append(f"| {name} | {cost} | {' | '.join(cells)} |")
    return lines


def _once(run: Reference) -> list[str]:
    return [
        f"Start-up to the first response {_spread(run['startup_s'], 1)} s, memory {run['memory_mb']:.0f} MB; one "
        f"request in flight p50 {run['alone_p50_ms']:.1f} ms; batches of 32: {run['batch_per_s']:.0f} "
        "recommendations/s.",
    ]


def _teacher(teacher: Reference) -> list[str]:
    if not teacher:
        return []
    rate, cpu = (_spread([v for v in teacher[name] if v is not None], 1) for name in ("rate_ratio", "cpu_ratio"))
    return [
        f"Compared with the PyTorch teacher behind the same server: {rate} times the rate at p99 <= "
        f"{teacher['p99_bound_ms']:.0f} ms, {cpu} times less CPU a request (`swiftrec bench teacher`).",
    ]


def _peers(rows: Sequence[Reference], skipped: Mapping[str, str]) -> list[str]:
    """All servers, best first for each encoder, and those that were not measured."""
    if not rows and not skipped:
        return []
    head = ("server", "encoder", "of the floor", "requests/s on one core", "p50 alone, ms", "p99 at 70 %, ms", "errors")
    lines, few = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)], few_rounds(rows)
    for row in sorted(rows, key=lambda row: (row["variant"], -row["share_of_floor"])):
        times = [_time(row["p50_ms_one_in_flight"], 1), _time(row["p99_ms_at_70"], 0)]
        cells = [f"{row['target']} {row['mode']}", row["variant"], *_ranges(row), *times, _errors(row, few)]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [f"| {name} | not measured: {reason} | | | | | |" for name, reason in skipped.items()]
    rounds = max((len(row["rounds"]) for row in rows), default=0)
    return [*lines, "", f"Medians of {rounds} rounds (range), of fewer if the last column says so."] if rows else lines


def _ranges(row: Reference) -> list[str]:
    digits = {"share_of_floor": 2, "requests_per_s": 0}
    ranges = {name: row["spread"][name] for name in digits}
    return [f"{row[name]:.{n}f} ({ranges[name][0]:.{n}f}-{ranges[name][1]:.{n}f})" for name, n in digits.items()]


def _time(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _errors(row: Reference, few: Mapping[str, str]) -> str:
    remarks = [
        f"{row['wrong_answers']} wrong answers" if row["wrong_answers"] else "",
        "" if row["alone_equals_batch"] else "alone differs from batch",
        "the client was the limit" if row.get("is_client_limited") else "",
        few.get(label(row), ""),
    ]
    return ", ".join([str(row["errors"]), *(remark for remark in remarks if remark)])


def _catalogue(rows: Sequence[Reference]) -> list[str]:
    """A line for each size, index and filter, and for each kind of whole request."""
    if not rows:
        return []
    lines = ["| items | index | of | recall@100 | recall@10 | p50, ms | p99, ms | / 2,000 items |", "|" + "---|" * 8]
    for row in rows:
        start = f"| {row['items']:,} | {row['index']} |"
        for name, search in row["search"].items():
            recall = f"{search['recall']:.4f} | {search['recall_10']:.4f}"
            lines.append(f"{start} search, {name} | {recall} | {_percentiles(search)} | |")
        for name, whole in row["whole"].items():
            lines.append(f"{start} Recommend, {name} | | | {_percentiles(whole)} | {_spread(whole['ratio'], 2)} |")
    return [*lines, "", f"Search: for 100 items, recall@10 for ten. Recommend: {IN_PROCESS}, for ten."]


def _percentiles(figures: Reference) -> str:
    return f"{figures['p50_ms']:.2f} | {figures['p99_ms']:.2f}"


def _sources(reference: Reference) -> list[str]:
    """Which results are of other runs than the first table."""
    run = reference["bench"]
    folders = {name: part["folder"] for name, part in reference.items()}
    others = ", ".join(f"{name} {folder}" for name, folder in folders.items() if folder != run["folder"])
    return [f"From other runs: {others}{'' if BundleId.read(run['bundle']) else _UNKNOWN_BUNDLE}."] if others else []


def _spread(values: Sequence[float], digits: int) -> str:
    if len(values) < 2:
        return f"{values[0]:.{digits}f}" if values else "-"
    return formatting.spread(values, digits)


def figure_rows(reference: Reference) -> Iterator[Figure]:
    """README's figures, those that were measured."""
    run, peers = reference["bench"], {(r["variant"], r["target"], r["mode"]): r for r in _peer_rows(reference)}
    default = run["bundle"]["variant"]
    others = [variant for variant in dict.fromkeys(variant for variant, *_ in peers) if variant != default]
    for variant in (default, *others):
        rates = {key[1:]: row["requests_per_s"] for key, row in peers.items() if key[0] == variant}
        own = [rates[OURS, mode] for mode in (UNARY, BATCH) if (OURS, mode) in rates]
        best = max((key for key in rates if key[0] != OURS), key=lambda key: rates[key], default=None)
        if len(own) == len(_FIXED_MODES) and best:
            value = f"{own[0]:,.0f} one a call, {own[1]:,.0f} in batches of 32; {' '.join(best)} {rates[best]:,.0f}"
            yield Figure(f"requests/s on one core, {variant}, and the fastest other server", value, "make bench-peers")
    if teacher := reference.get("teacher"):
        factor = float(np.median([value for value in teacher["rate_ratio"] if value is not None]))
        title = f"rate at p99 <= {teacher['p99_bound_ms']:.0f} ms, compared with the PyTorch teacher"
        yield Figure(title, f"{factor:.0f} times", "swiftrec bench teacher")
    yield Figure("p50 with one request in flight", f"{run['alone_p50_ms']:.1f} ms", "make bench")
    started = f"{float(np.median(run['startup_s'])):.1f} s, {run['memory_mb']:.0f} MB"
    yield Figure("start-up to the first response, memory", started, "make bench")
    if searches := [row["search"] for row in _catalogue_rows(reference) if row["items"] == _LARGE_CATALOGUE]:
        recall = min(search["recall_10"] for search in searches[0].values())
        p50_ms = max(search["p50_ms"] for search in searches[0].values())
        value = f"recall@10 at least {recall:.3f}, p50 at most {p50_ms:.1f} ms"
        yield Figure(f"search in {_LARGE_CATALOGUE:,} items, any filter", value, "swiftrec bench catalogue")


def _peer_rows(reference: Reference) -> list[Reference]:
    return list(reference.get("peers", {}).get("rows", []))


def _catalogue_rows(reference: Reference) -> list[Reference]:
    rows = reference.get("catalogue", {}).get("rows", [])
    return [row for row in rows if row["index"] == "approximate"]


def figure_table(figures: Sequence[Figure]) -> str:
    """The figures as a Markdown table."""
    rows = [f"| {figure.title} | {figure.value} | `{figure.command}` |" for figure in figures]
    return "\n".join(["| what | figure | command |", "|---|---|---|", *rows])


def throughput_chart(reference: Reference) -> str:
    """Requests per second on one core with the default encoder: this server, and the best mode of each other one.

    Returns:
        An SVG document; empty if the servers were not compared.
    """
    rows = _peer_rows(reference)
    variant = reference["bench"]["bundle"]["variant"] if reference else ""
    bars = []
    for mode, title in ((BATCH, _FIXED_MODES[BATCH]), (UNARY, _FIXED_MODES[UNARY])):
        bars += [_bar(row, f"{OURS}, {title}", 0) for row in rows if _is(row, variant, OURS, mode)]
    peers = [row for row in rows if row["target"] != OURS and row["variant"] == variant]
    best: dict[str, Reference] = {}
    for row in sorted(peers, key=lambda row: -float(row["requests_per_s"])):
        best.setdefault(row["target"], row)
    titles = {SPLIT: "batches split by length", DOCUMENTED: DOCUMENTED}
    bars += [_bar(row, f"{name}, {titles[row['mode']]}", 5) for name, row in best.items()]
    ordered = sorted(bars, key=lambda bar: -bar.value)
    return plots.bars(ordered, f"requests per second on one core, {variant}") if ordered else ""


def _is(row: Reference, variant: str, target: str, mode: str) -> bool:
    return (row["variant"], row["target"], row["mode"]) == (variant, target, mode)


def _bar(row: Reference, title: str, colour: int) -> plots.Bar:
    low, high = row["spread"]["requests_per_s"]
    return plots.Bar(title, round(row["requests_per_s"]), low, high, colour)


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


def _read(path: Path) -> dict[str, Any]:
    """The reference; empty if there is none yet."""
    try:
        reference: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise RuntimeError(f"{path}: cannot be read as a reference ({error}): give --reference FOLDER") from None
    return reference
