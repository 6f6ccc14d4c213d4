"""`swiftrec bench summary`: the newest results in a few figures, from the newest file of each tool.

Rates and latencies in one map are of one job by one clock: those of the comparison with other servers if it was
measured, else those of `swiftrec bench` on *mixed* and *list*, per CPU second.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from swiftrec.benchmarks import formatting, result_files
from swiftrec.benchmarks.catalogue.result import CatalogueResult
from swiftrec.benchmarks.peers.results import PeersResult, incomplete
from swiftrec.benchmarks.peers.tables import few_rounds
from swiftrec.benchmarks.result_files import RESULTS, ToolResult
from swiftrec.benchmarks.selection import Selection, Stored, choose, partial, smoke
from swiftrec.benchmarks.suite.result import Result
from swiftrec.benchmarks.teacher import TeacherResult

OURS, OUR_BATCH = "swiftrec", "swiftrec BatchRecommend"
Figures = dict[str, dict[str, float]]
"""By server and mode, then by encoder."""


class SummarySettings(BaseSettings):
    """Print the newest results of all tools on one screen. Use it after a measurement; --json prints one line."""

    model_config = SettingsConfigDict(
        cli_prog_name="swiftrec bench summary", cli_kebab_case=True, cli_implicit_flags=True
    )

    as_json: bool = Field(False, alias="json", description="one line of JSON")
    results: Path = Field(RESULTS, description="folder of results")


@dataclass(frozen=True, slots=True)
class Overview:
    """A run, and the newest other results of the same machine and bundle."""

    run: Stored[Result]
    peers: Stored[PeersResult] | None
    catalogue: Stored[CatalogueResult] | None
    teacher: Stored[TeacherResult] | None

    @property
    def others(self) -> dict[str, tuple[Path, ToolResult]]:
        """The other results, by name."""
        named = {"peers": self.peers, "catalogue": self.catalogue, "teacher": self.teacher}
        return {name: stored for name, stored in named.items() if stored}


def run(settings: SummarySettings) -> int:
    """Print it; 1 if the run is partial, invalid or a smoke run."""
    overview = newest_results(settings.results)
    shown = formatting.as_json(figures(overview)) if settings.as_json else _text(overview)
    sys.stdout.write(f"{shown}\n")
    result = overview.run[1]
    problems = [*result.failures, *(["the run is partial"] if result.is_partial else [])]
    problems += ["only a smoke run, whose figures mean nothing: run swiftrec bench"] if smoke(result) else []
    for line in (*problems, *_remarks(overview)):
        sys.stderr.write(f"swiftrec bench summary: {line}\n")
    return 1 if problems else 0


def newest_results(results: Path, folder: Path | None = None) -> Overview:
    """The run in `folder`, or the newest full one, with the newest other results of its machine and bundle.

    Raises:
        RuntimeError: there is no run.
    """
    reported: set[str] = set()
    run = (folder, result_files.load(folder, Result)) if folder else newest_run(results, reported)
    if run is None:
        raise RuntimeError(f"{results}: no result yet: run swiftrec bench")
    selection = Selection(results, run[1], reported)
    return Overview(
        run,
        selection.newest(PeersResult, flaw=incomplete),
        selection.newest(CatalogueResult, flaw=partial),
        selection.newest(TeacherResult, flaw=partial),
    )


def newest_run(results: Path, reported: set[str]) -> Stored[Result] | None:
    """The newest full run of `swiftrec bench`; the newest of any kind if there is none; None without a run."""
    runs = list(result_files.load_all(results, Result))
    reasons = [not_full(result) for _, result in runs]
    return choose(runs, reasons, reported) if "" in reasons else next(iter(runs), None)


def not_full(result: Result) -> str:
    """A reason if the figures of a run do not count; empty for a full and valid run."""
    if result.failures:
        return smoke(result) or f"not valid: {result.failures[0]}"
    return smoke(result) or partial(result)


def figures(overview: Overview) -> dict[str, Any]:
    """The promised keys of `--json`."""
    result = overview.run[1]
    peers = overview.peers[1] if overview.peers else None
    return {
        "machine": result.machine["cpu"],
        "commit": result.commit,
        "work_ratio": {name: workload.work_ratio.median for name, workload in result.workloads.items()},
        "req_per_s_core": _rates(overview),
        "p99_ms_at_70": _tails(overview),
        "peers_skipped": peers.skipped if peers else {},
        "peers_partial": few_rounds(peers.rows) if peers else {},
        "catalogue": overview.catalogue[1].rows if overview.catalogue else [],
    }


def _rates(overview: Overview) -> Figures:
    if overview.peers:
        return _peer_figures(overview.peers[1], "requests_per_s")
    result = overview.run[1]
    return _run_figures(result, lambda name: result.workloads[name].per_s_core.median)


def _tails(overview: Overview) -> Figures:
    if overview.peers:
        return _peer_figures(overview.peers[1], "p99_ms_at_70")
    result = overview.run[1]
    return _run_figures(result, lambda name: result.workloads[name].p99_ms_at_70.median)


def _peer_figures(peers: PeersResult, field: str) -> Figures:
    by_target: Figures = {}
    for row in peers.rows:
        if row[field] is not None:
            by_target.setdefault(f"{row['target']} {row['mode']}", {})[row["variant"]] = row[field]
    return by_target


def _run_figures(result: Result, figure: Callable[[str], float]) -> Figures:
    """One recommendation a call on *mixed*, and 32 a call on *list*, by the encoder's variant."""
    variant = result.bundle.get("variant", "?")
    targets = {OURS: "mixed", OUR_BATCH: "list"}
    return {target: {variant: figure(name)} for target, name in targets.items() if name in result.workloads}


def _remarks(overview: Overview) -> list[str]:
    """What a reader has to know of the other results."""
    commit = overview.run[1].commit
    reason = incomplete(overview.peers[1]) if overview.peers else ""
    return [
        *([f"the comparison with other servers is not complete: {reason}"] if reason else []),
        *(
            f"{name}: from {folder.name}, commit {result.commit}, not {commit}"
            for name, (folder, result) in overview.others.items()
            if result.commit != commit
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
