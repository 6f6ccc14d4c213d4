"""`python -m benchmarks summary`: the newest run in a few figures, ours and those that were measured apart."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from benchmarks import report
from benchmarks.suite import store
from benchmarks.suite.compare import newest
from benchmarks.suite.result import Result
from benchmarks.suite.settings import RESULTS

OURS, OUR_LIST = "swiftrec", "swiftrec BatchRecommend"
KEYS = ("machine", "commit", "work_ratio", "req_per_s_core", "p99_ms_at_70", "peers_skipped", "catalogue")


class SummaryConfig(BaseSettings):
    """The newest run's figures; with --json as one line."""

    model_config = SettingsConfigDict(
        cli_prog_name="python -m benchmarks summary", cli_kebab_case=True, cli_implicit_flags=True
    )

    as_json: bool = Field(False, alias="json", description="one line of JSON")
    results: Path = Field(RESULTS, description="folder of results")


def run(settings: SummaryConfig) -> int:
    """Print it; 1 if the run is partial or not valid."""
    found = digest(settings.results)
    shown = report.as_json({key: found[key] for key in KEYS}) if settings.as_json else _text(found)
    sys.stdout.write(f"{shown}\n")
    problems = [*found["failures"], *(["the run is partial"] if found["is_partial"] else [])]
    for problem in problems:
        sys.stderr.write(f"benchmarks summary: {problem}\n")
    return 1 if problems else 0


def digest(results: Path, folder: Path | None = None) -> dict[str, Any]:
    """Of the run in `folder` or the newest; what it lacks is from the newest run of the same machine that has it.

    Raises:
        RuntimeError: there is no run.
    """
    folder = folder or newest(results)
    ours = store.load(folder)
    peers, peers_at = _with(results, ours, lambda one: bool(one.peers.req_per_s_core or one.peers.skipped))
    catalogue, catalogue_at = _with(results, ours, lambda one: bool(one.catalogue))
    teacher, teacher_at = _with(results, ours, lambda one: bool(one.teacher))
    sources = {"peers": peers_at, "catalogue": catalogue_at, "teacher": teacher_at}
    return {
        **of(ours),
        "req_per_s_core": _rates(ours) | (peers.peers.req_per_s_core if peers else {}),
        "p99_ms_at_70": _tails(ours) | (peers.peers.p99_ms_at_70 if peers else {}),
        "peers_skipped": peers.peers.skipped if peers else {},
        "peers": peers.peers.rows if peers else [],
        "catalogue": catalogue.catalogue if catalogue else [],
        "teacher": teacher.teacher if teacher else {},
        "own": list(_rates(ours)),
        "sources": {"run": folder.name, **{name: at for name, at in sources.items() if at}},
    }


def of(result: Result) -> dict[str, Any]:
    """What one run says of our own server."""
    return {
        "machine": result.machine["cpu"],
        "commit": result.commit,
        "bundle": result.bundle,
        "work_ratio": {name: found.work_ratio.median for name, found in result.workloads.items()},
        "req_per_s_core": _rates(result),
        "p99_ms_at_70": _tails(result),
        "is_partial": result.is_partial,
        "failures": result.failures,
    }


def _rates(result: Result) -> dict[str, dict[str, float]]:
    return _by_target(result, lambda name: result.workloads[name].per_s_core.median)


def _tails(result: Result) -> dict[str, dict[str, float]]:
    return _by_target(result, lambda name: result.workloads[name].p99_ms_at_70.median)


def _by_target(result: Result, figure: Callable[[str], float]) -> dict[str, dict[str, float]]:
    """Our rows: one request a call on *mixed*, and 32 a call on *list*, by the encoder's variant."""
    variant = result.bundle.get("variant", "?")
    targets = {OURS: "mixed", OUR_LIST: "list"}
    return {target: {variant: figure(name)} for target, name in targets.items() if name in result.workloads}


def _with(results: Path, ours: Result, has: Callable[[Result], bool]) -> tuple[Result | None, str]:
    for folder, found in store.every(results):
        if found.machine["cpu"] == ours.machine["cpu"] and has(found):
            return found, folder.name
    return None, ""


def _text(found: dict[str, Any]) -> str:
    ratios = [[name, f"{ratio:.3f}"] for name, ratio in found["work_ratio"].items()]
    tails = found["p99_ms_at_70"]
    rates = [
        [f"{target}, {variant}", f"{rate:.0f}", f"{tails.get(target, {}).get(variant, float('nan')):.0f}"]
        for target, variants in found["req_per_s_core"].items()
        for variant, rate in variants.items()
    ]
    lines = [f"{found['machine']}, commit {found['commit']}", report.table(["workload", "work ratio"], ratios)]
    lines += [report.table(["target", "per s and core", "p99 ms at 70 %"], rates)]
    if len(found["req_per_s_core"]) > len(found["own"]):
        lines += [f"{', '.join(found['own'])}: *mixed* and *list*, per CPU second; the others: one job, by the clock"]
    lines += [f"{peer} was not run: {why}" for peer, why in found["peers_skipped"].items()]
    return "\n\n".join(lines)
