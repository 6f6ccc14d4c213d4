"""`swiftrec bench summary`: the newest run in a few figures, ours and those that were measured apart.

Rates and latencies of one map are of one job by one clock: once other servers were measured, theirs and the rows of
this server in the same comparison; before that what `make bench` has of *mixed* and *list*, per CPU second.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from swiftrec.benchmarks import report
from swiftrec.benchmarks.suite import store
from swiftrec.benchmarks.suite.apart import few_rounds
from swiftrec.benchmarks.suite.result import Peers, Result
from swiftrec.benchmarks.suite.selection import Found, Selection, newest_run, partial_catalogue, partial_teacher, smoke
from swiftrec.benchmarks.suite.settings import RESULTS

OURS, OUR_LIST = "swiftrec", "swiftrec BatchRecommend"
KEYS = (
    "machine",
    "commit",
    "work_ratio",
    "req_per_s_core",
    "p99_ms_at_70",
    "peers_skipped",
    "peers_partial",
    "catalogue",
)


class SummaryConfig(BaseSettings):
    """The newest run's figures; with --json as one line."""

    model_config = SettingsConfigDict(
        cli_prog_name="swiftrec bench summary", cli_kebab_case=True, cli_implicit_flags=True
    )

    as_json: bool = Field(False, alias="json", description="one line of JSON")
    results: Path = Field(RESULTS, description="folder of results")


def run(settings: SummaryConfig) -> int:
    """Print it; 1 if the run is partial or not valid."""
    found = digest(settings.results)
    shown = report.as_json({key: found[key] for key in KEYS}) if settings.as_json else _text(found)
    sys.stdout.write(f"{shown}\n")
    problems = [*found["failures"], *(["the run is partial"] if found["is_partial"] else [])]
    problems += ["only a smoke run, whose figures say nothing: run make bench"] if found["is_smoke"] else []
    others = ["the comparison with other servers is partial"] if found["is_peers_partial"] else []
    for said in (*problems, *others, *found["elsewhere"]):
        sys.stderr.write(f"benchmarks summary: {said}\n")
    return 1 if problems else 0


def digest(results: Path, folder: Path | None = None) -> dict[str, Any]:
    """Of the run in `folder` or the newest full one; what it lacks is from the newest of the same machine and bundle.

    Raises:
        RuntimeError: there is no run.
    """
    every = list(store.every(results))
    said: set[str] = set()
    folder, ours = (folder, store.load(folder)) if folder else _newest(every, results, said)
    selection = Selection(every, ours, said)
    found = {
        "peers": selection.newest(lambda one: bool(one.peers.req_per_s_core or one.peers.skipped)),
        "catalogue": selection.newest(lambda one: bool(one.catalogue), flaw=partial_catalogue),
        "teacher": selection.newest(lambda one: bool(one.teacher), flaw=partial_teacher),
    }
    peers, catalogue, teacher = (apart[1] if apart else None for apart in found.values())
    others = peers.peers if peers else Peers()
    maps = {"req_per_s_core": others.req_per_s_core, "p99_ms_at_70": others.p99_ms_at_70}
    return {
        **of(ours),
        **(maps if others.req_per_s_core else {}),
        "peers_skipped": others.skipped,
        "peers_partial": few_rounds(others.rows),
        "is_peers_partial": others.is_partial,
        "peers": others.rows,
        "has_one_job": bool(others.req_per_s_core),
        "catalogue": catalogue.catalogue if catalogue else [],
        "teacher": teacher.teacher if teacher else {},
        "sources": {"run": folder.name, **{name: apart[0].name for name, apart in found.items() if apart}},
        "elsewhere": [
            f"{name}: from {apart[0].name}, commit {apart[1].commit}, and not {ours.commit}"
            for name, apart in found.items()
            if apart and apart[1].commit != ours.commit
        ],
    }


def _newest(every: Sequence[Found], results: Path, said: set[str]) -> Found:
    found = newest_run(every, said)
    if found is None:
        raise RuntimeError(f"{results}: no result yet: run make bench")
    return found


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
        "is_smoke": bool(smoke(result)),
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
    lines += ["one job, by the clock" if found["has_one_job"] else "*mixed* and *list*, per CPU second"]
    lines += [f"{peer} was not run: {why}" for peer, why in found["peers_skipped"].items()]
    lines += [f"{peer} was measured in {words}" for peer, words in found["peers_partial"].items()]
    return "\n\n".join(lines)
