"""`swiftrec bench summary`: the newest results in a few figures, from the newest file of each tool.

Rates and latencies in one map are of one job by one clock: those of the comparison with other servers if it was
measured, else those of `swiftrec bench` on *mixed* and *list*, per CPU second.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from swiftrec.benchmarks import formatting
from swiftrec.benchmarks.peers.results import PeersResult, incomplete
from swiftrec.benchmarks.peers.tables import few_rounds
from swiftrec.benchmarks.result_files import RESULTS
from swiftrec.benchmarks.selection import smoke
from swiftrec.benchmarks.suite.overview import Overview, newest_results

OURS, OUR_BATCH = "swiftrec", "swiftrec BatchRecommend"
TargetFigures = dict[str, dict[str, float]]
"""By server and mode, then by encoder."""


class SummarySettings(BaseSettings):
    """Print the newest results of all tools on one screen. Use it after a measurement; --json prints one line."""

    model_config = SettingsConfigDict(
        cli_prog_name="swiftrec bench summary", cli_kebab_case=True, cli_implicit_flags=True
    )

    as_json: bool = Field(False, alias="json", description="one line of JSON")
    results: Path = Field(RESULTS, description="folder of results")


def run(settings: SummarySettings) -> int:
    """Print it; 1 if the run is partial, invalid or a smoke run."""
    overview = newest_results(settings.results)
    shown = formatting.as_json(figures(overview)) if settings.as_json else _text(overview)
    sys.stdout.write(f"{shown}\n")
    result = overview.run
    problems = [*result.failures, *(["the run is partial"] if result.is_partial else [])]
    problems += ["only a smoke run, whose figures mean nothing: run swiftrec bench"] if smoke(result) else []
    for line in (*problems, *_remarks(overview)):
        sys.stderr.write(f"swiftrec bench summary: {line}\n")
    return 1 if problems else 0


def figures(overview: Overview) -> dict[str, Any]:
    """The promised keys of `--json`."""
    result, peers = overview.run, overview.peers
    return {
        "machine": result.machine["cpu"],
        "commit": result.commit,
        "work_ratio": {name: workload.work_ratio.median for name, workload in result.workloads.items()},
        "req_per_s_core": _by_encoder(overview, "requests_per_s", "per_s_core"),
        "p99_ms_at_70": _by_encoder(overview, "p99_ms_at_70", "p99_ms_at_70"),
        "peers_skipped": peers.skipped if peers else {},
        "peers_partial": few_rounds(peers.rows) if peers else {},
        "catalogue": overview.catalogue.rows if overview.catalogue else [],
    }


def _by_encoder(overview: Overview, of_peers: str, of_run: str) -> TargetFigures:
    """A figure of each server; without a comparison with other servers that of this one."""
    if overview.peers:
        return _peer_figures(overview.peers, of_peers)
    workloads = overview.run.workloads
    variant, targets = overview.run.bundle.get("variant", "?"), {OURS: "mixed", OUR_BATCH: "list"}
    return {
        target: {variant: getattr(workloads[name], of_run).median}
        for target, name in targets.items()
        if name in workloads
    }


def _peer_figures(peers: PeersResult, field: str) -> TargetFigures:
    by_target: TargetFigures = {}
    for row in peers.rows:
        if row[field] is not None:
            by_target.setdefault(f"{row['target']} {row['mode']}", {})[row["variant"]] = row[field]
    return by_target


def _remarks(overview: Overview) -> list[str]:
    """What a reader has to know of the other results."""
    commit = overview.run.commit
    others = {"peers": overview.peers, "catalogue": overview.catalogue, "teacher": overview.teacher}
    reason = incomplete(overview.peers) if overview.peers else ""
    return [
        *([f"the comparison with other servers is not complete: {reason}"] if reason else []),
        *(
            f"{name}: from {overview.folders[name]}, commit {result.commit}, not {commit}"
            for name, result in others.items()
            if result and result.commit != commit
        ),
    ]


def _text(overview: Overview) -> str:
    values = figures(overview)
    ratios = [[name, f"{ratio:.3f}"] for name, ratio in values["work_ratio"].items()]
    tails = values["p99_ms_at_70"]
    rates = [
        [f"{target}, {variant}", f"{rate:.0f}", f"{tails.get(target, {}).get(variant, float('nan')):.0f}"]
        for target, variants in values["req_per_s_core"].items()
        for variant, rate in variants.items()
    ]
    lines = [f"{values['machine']}, commit {values['commit']}", formatting.table(["workload", "work ratio"], ratios)]
    lines += [formatting.table(["target", "per s and core", "p99 ms at 70 %"], rates)]
    lines += ["one job, by the clock" if overview.peers else "*mixed* and *list*, per CPU second"]
    lines += [f"{peer} was not measured: {reason}" for peer, reason in values["peers_skipped"].items()]
    lines += [f"{peer} was measured in {number}" for peer, number in values["peers_partial"].items()]
    return "\n\n".join(lines)
