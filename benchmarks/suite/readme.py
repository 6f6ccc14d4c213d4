"""`swiftrec bench readme`: the results table of README.md, made from the committed reference, never typed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from swiftrec.benchmarks.bundle_id import BundleId
from swiftrec.benchmarks.suite import store
from swiftrec.benchmarks.suite.apart import IN_PROCESS, few_rounds, label, recall_10
from swiftrec.benchmarks.suite.digest import digest
from swiftrec.benchmarks.suite.result import Repeated, Result
from swiftrec.benchmarks.suite.selection import no_full_run
from swiftrec.benchmarks.suite.settings import RESULTS

REFERENCE = RESULTS / "reference.json"
BEGIN, END = (
    "<!-- benchmarks: made by `.venv/bin/swiftrec bench readme`, do not edit -->",
    "<!-- end of benchmarks -->",
)
_COMMAND = ".venv/bin/swiftrec bench readme"
_NOTHING = f"No reference run yet: `make bench` on a quiet machine, then `{_COMMAND} --reference FOLDER`"
_UNKNOWN_BUNDLE = "; this reference does not name its bundle's export key, so their bundle may be another"
_FIELDS = ("floor_us", "echo_us", "server_us", "work_ratio", "per_s_core", "p99_ms_at_70")


class ReadmeSettings(BaseSettings):
    """Write README's results table from the reference; --reference RESULT takes another run as the reference first."""

    model_config = SettingsConfigDict(
        cli_prog_name="swiftrec bench readme", cli_kebab_case=True, cli_implicit_flags=True
    )

    check: bool = Field(False, description="only say whether the table is in step (exit code 1 if not)")
    reference: Path | None = Field(None, description="folder of the run that becomes the reference")
    readme: Path = Field(Path("README.md"), description="file with the two markers")
    file: Path = Field(REFERENCE, description="the reference")


def run(settings: ReadmeSettings) -> int:
    """Write, or check."""
    if settings.reference:
        found = slim(store.load(settings.reference), digest(settings.reference.parent, settings.reference))
        settings.file.parent.mkdir(parents=True, exist_ok=True)
        settings.file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    text = settings.readme.read_text(encoding="utf-8")
    found = _read(settings.file)
    wanted = replaced(text, table(found) if found else _NOTHING)
    if wanted == text:
        return 0
    if settings.check:
        sys.stderr.write(f"{settings.readme} is not in step with {settings.file}: run swiftrec bench readme\n")
        return 1
    settings.readme.write_text(wanted, encoding="utf-8")
    return 0


def slim(result: Result, summary: dict[str, Any]) -> dict[str, Any]:
    """What the table needs of a run.

    Raises:
        RuntimeError: the run is partial, not valid, not complete, or only a smoke run: no reference.
    """
    if reason := no_full_run(result):
        raise RuntimeError(f"a partial, invalid or smoke run is no reference ({reason}): run make bench to its end")
    if gone := {"SingleStream", "Offline"} - result.scenarios.keys():
        raise RuntimeError(
            f"a run without {' and '.join(sorted(gone))} is no reference: no time was left for it: raise --budget-s"
        )
    workloads = {
        name: {field: getattr(found, field).values for field in _FIELDS} for name, found in result.workloads.items()
    }
    keys = ("req_per_s_core", "p99_ms_at_70", "peers_skipped", "peers", "catalogue", "teacher", "sources")
    return {
        "machine": result.machine,
        "commit": result.commit,
        "date": result.started,
        "bundle": result.bundle,
        "workloads": workloads,
        "scenarios": result.scenarios,
        "startup_s": result.startup_s.values,
        "memory_mb": result.memory_mb,
        **{key: summary[key] for key in keys},
    }


def table(found: dict[str, Any]) -> str:
    """The Markdown between the markers."""
    machine, bundle = found["machine"], found["bundle"]
    rounds = len(next(iter(found["workloads"].values()))["server_us"])
    lines = [
        f"{machine['cpu']}, one core for the server, one for the client; {bundle['name']}, {bundle['variant']}; commit "
        f"{found['commit']}, {found['date'][:10]}. Medians of {rounds} interleaved rounds (range).",
        "",
        "| workload | CPU floor + echo + rest = server, µs | work ratio | per CPU second | p99 at 70 % load, ms |",
        "|---|---|---|---|---|",
    ]
    for name, figures in found["workloads"].items():
        cells = {field: Repeated(values=values) for field, values in figures.items()}
        floor, echo, server = (cells[field].median for field in ("floor_us", "echo_us", "server_us"))
        cost = f"{floor:.0f} + {echo:.0f} + {server - floor - echo:.0f} = {server:.0f}"
        ratio, rate, tail = (_cell(cells[f], d) for f, d in (("work_ratio", 2), ("per_s_core", 0), ("p99_ms_at_70", 0)))
        lines.append(f"| {name} | {cost} | {ratio} | {rate} | {tail} |")
    lines += ["", *_facts(found)]
    peers = _peers(found.get("peers", []), found["peers_skipped"])
    for part in (_teacher(found["teacher"]), peers, _catalogue(found["catalogue"])):
        lines += ["", *part] if part else []
    apart = {name: at for name, at in found["sources"].items() if name != "run" and at != found["sources"]["run"]}
    if apart:
        others = ", ".join(f"{name} {at}" for name, at in apart.items())
        lines += ["", f"From other runs: {others}{'' if BundleId.read(bundle) else _UNKNOWN_BUNDLE}."]
    return "\n".join(lines)


def _facts(found: dict[str, Any]) -> list[str]:
    startup = Repeated(values=found["startup_s"])
    alone_ms = found["scenarios"]["SingleStream"]["p50_ms"]
    return [
        f"Start-up to the first good answer {_cell(startup, 1)} s, memory {found['memory_mb']:.0f} MB; one request in "
        f"flight p50 {alone_ms:.1f} ms; lists of 32: {found['scenarios']['Offline']['per_s']:.0f} recommendations/s.",
    ]


def _teacher(found: dict[str, Any]) -> list[str]:
    if not found:
        return []
    rate, cpu = (Repeated(values=found[name]) for name in ("rate_ratio", "cpu_ratio"))
    return [
        f"Against the PyTorch teacher behind the same server: {_cell(rate, 1)} times the rate at p99 <= "
        f"{found['p99_bound_ms']:.0f} ms, {_cell(cpu, 1)} times less CPU a request (`swiftrec bench teacher`).",
    ]


def _peers(rows: list[dict[str, Any]], skipped: dict[str, str]) -> list[str]:
    """The servers of `make bench-peers`, ours among them, best first in each encoder, and those that were not run."""
    if not rows and not skipped:
        return []
    head = ("server", "encoder", "of the floor", "requests/s on one core", "p50 alone, ms", "p99 at 70 %, ms", "errors")
    lines, few = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)], few_rounds(rows)
    for row in sorted(rows, key=lambda row: (row["variant"], -row["share_of_floor"])):
        times = [_time(row["p50_ms_one_in_flight"], 1), _time(row["p99_ms_at_70"], 0)]
        cells = [f"{row['target']} {row['mode']}", row["variant"], *_ranges(row), *times, _errors(row, few)]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [f"| {name} | not measured: {why} | | | | | |" for name, why in skipped.items()]
    most = max((len(row["rounds"]) for row in rows), default=0)
    return [*lines, "", f"Medians of {most} rounds (range), of fewer where the last column says so."] if rows else lines


def _ranges(row: dict[str, Any]) -> list[str]:
    digits = {"share_of_floor": 2, "requests_per_s": 0}
    ranges = {name: row["spread"][name] for name in digits}
    return [f"{row[name]:.{n}f} ({ranges[name][0]:.{n}f}-{ranges[name][1]:.{n}f})" for name, n in digits.items()]


def _time(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _errors(row: dict[str, Any], few: dict[str, str]) -> str:
    wrong = f", {row['wrong_answers']} wrong answers" if row["wrong_answers"] else ""
    limit = ", the client was the limit" if row.get("is_client_limited") else ""
    rounds = f", {few[label(row)]}" if label(row) in few else ""
    return f"{row['errors']}{wrong}{'' if row['alone_equals_batch'] else ', alone differs from batch'}{limit}{rounds}"


def _catalogue(rows: list[dict[str, Any]]) -> list[str]:
    """A line for each size, index and filter, and for each kind of whole request."""
    if not rows:
        return []
    lines = ["| items | index | of | recall@100 | recall@10 | p50, ms | p99, ms | / 2,000 items |", "|" + "---|" * 8]
    for row in rows:
        where = f"| {row['items']:,} | {row['index']} |"
        for name, found in row["search"].items():
            recall = f"{found['recall']:.4f} | {recall_10(found)}"
            lines.append(f"{where} search, {name} | {recall} | {_times(found)} | |")
        for name, found in row["whole"].items():
            ratio = _cell(Repeated(values=found["ratio"]), 2)
            lines.append(f"{where} Recommend, {name} | | | {_times(found)} | {ratio} |")
    return [*lines, "", f"Search: for 100 items, recall@10 for ten. Recommend: {IN_PROCESS}, for ten."]


def _times(found: dict[str, Any]) -> str:
    return f"{found['p50_ms']:.2f} | {found['p99_ms']:.2f}"


def _cell(found: Repeated, digits: int) -> str:
    if not found.values:
        return "-"
    if len(found.values) == 1:
        return f"{found.median:.{digits}f}"
    return f"{found.median:.{digits}f} ({min(found.values):.{digits}f}-{max(found.values):.{digits}f})"


def replaced(text: str, made: str) -> str:
    """README with another table.

    Raises:
        RuntimeError: it does not have the two markers, in order and once each.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in after:
        raise RuntimeError(f"the markers are missing: put {BEGIN} and {END} around the table")
    return f"{before}{BEGIN}\n{made}\n{END}{after}"


def _read(path: Path) -> dict[str, Any]:
    """The reference; empty if there is none yet."""
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise RuntimeError(f"{path}: no reference ({error}): give --reference FOLDER") from None
    return found
