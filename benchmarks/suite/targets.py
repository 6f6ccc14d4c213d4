"""`swiftrec bench targets`: what this project promises of its speed, compared with what was measured.

Ratios within one run, round by round; the median decides. Machine and bundle are those of the newest full run, and each
figure is from the newest file of its tool that has it. Results that are ignored are named on stderr.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from swiftrec.benchmarks import formatting
from swiftrec.benchmarks.catalogue.result import LARGE_CATALOGUE, CatalogueResult
from swiftrec.benchmarks.peers.results import (
    PeerSettingsResult,
    PeersResult,
    incomplete,
    is_clean,
    is_client_limited,
)
from swiftrec.benchmarks.peers.targets import BATCH, DOCUMENTED, OURS, SEPARATOR, SPLIT, UNARY
from swiftrec.benchmarks.result_files import RESULTS, ToolResult, load_all
from swiftrec.benchmarks.selection import Selection, partial
from swiftrec.benchmarks.suite.overview import newest_run, not_full
from swiftrec.benchmarks.suite.result import Result, Workload
from swiftrec.benchmarks.teacher import TeacherResult
from swiftrec.promise import Promise, missed

FRONTS = ("pytriton", "mlserver", "litserve", "bentoml", "ray")  # gRPC, or a front in Python
TRITON, RUST = "pytriton", "mosec"
_MODES = (DOCUMENTED, SPLIT)
_WORK_RATIO, _BATCH_WORK_RATIO = 0.90, 0.95
_FRONT_FACTOR, _TRITON_FACTOR, _TEACHER_FACTOR, _CACHE_FACTOR = 1.3, 1.5, 10.0, 2.0
_RECALL, _MAX_SLOWDOWN = 0.99, 2.0
Row = Mapping[str, Any]


class TargetsSettings(BaseSettings):
    """Compare the promised figures with the newest measurements.

    Use it after measuring. Prints a table with the file that each figure is from; exit code 1 unless all are met.
    """

    model_config = SettingsConfigDict(cli_prog_name="swiftrec bench targets", cli_kebab_case=True)

    results: Path = Field(RESULTS, description="folder of results")


def run(settings: TargetsSettings) -> int:
    """Print the table; the last line is JSON."""
    judged = list(promises(settings.results))
    rows = [[promise.name, promise.limit, promise.measured, promise.verdict, promise.source] for promise in judged]
    table = formatting.table(["figure", "target", "median [range]", "", "from"], rows)
    met = len(judged) - len(missed(judged))
    values = {"targets": [promise.as_json() for promise in judged]}
    sys.stdout.write(f"{table}\n{met} of {len(judged)} figures are met\n{formatting.as_json(values)}\n")
    return 0 if met == len(judged) else 1


def promises(results: Path) -> Iterator[Promise]:
    """Every promise with its measurement.

    Raises:
        RuntimeError: there is no result.
    """
    reported: set[str] = set()
    like = newest_run(results, reported) or _newest_of_any(results)
    selection = Selection(results, like[1], reported)
    yield from _work_ratio(selection)
    yield from _peers(selection)
    yield from _teacher(selection)
    yield from _cache(selection)
    yield from _catalogue(selection)


def _newest_of_any(results: Path) -> tuple[Path, ToolResult]:
    kinds: Sequence[type[ToolResult]] = (PeersResult, PeerSettingsResult, TeacherResult, CatalogueResult)
    stored = [result for kind in kinds for result in load_all(results, kind)]
    if not stored:
        raise RuntimeError(f"{results}: no result yet: run swiftrec bench")
    return max(stored, key=lambda pair: pair[0].name)


def is_static(variant: str) -> bool:
    """Whether it is the student without a transformer."""
    return variant.startswith("static")


def _no_own_run(result: Result) -> str:
    """A reason if it is no full run, or of a server that was running already."""
    target = result.settings.get("target")
    return not_full(result) or (f"of a server that was running already, at {target}" if target else "")


def _work_ratio(selection: Selection) -> Iterator[Promise]:
    for workload, bound in (("mixed", _WORK_RATIO), ("list", _BATCH_WORK_RATIO)):

        def has(result: Result, name: str = workload) -> bool:
            return name in result.workloads and result.bundle["variant"] == result.bundle.get("default")

        stored = selection.newest(Result, has, unfit=_no_own_run)
        values = stored[1].workloads[workload].work_ratio.values if stored else []
        name = f"work ratio, default student, {workload}"
        yield Promise(name, bound, values, _source(stored), why="swiftrec bench")


def _cache(selection: Selection) -> Iterator[Promise]:
    def has(result: Result) -> bool:
        return {"hot", "mixed"} <= result.workloads.keys() and not is_static(result.bundle["variant"])

    stored = selection.newest(Result, has, unfit=_no_own_run)
    values = _rate_ratios(stored[1].workloads["hot"], stored[1].workloads["mixed"]) if stored else []
    variant = stored[1].bundle["variant"] if stored else "transformer student"
    name = f"hot / mixed, recommendations per s and core, {variant}"
    yield Promise(name, _CACHE_FACTOR, values, _source(stored), why="swiftrec bench --variant")


def _rate_ratios(workload: Workload, other: Workload) -> list[float]:
    return [a / b for a, b in zip(workload.per_s_core.values, other.per_s_core.values, strict=False)]


def _teacher(selection: Selection) -> Iterator[Promise]:
    stored = selection.newest(TeacherResult, flaw=partial)
    values = [value for value in (stored[1].figures["rate_ratio"] if stored else []) if value is not None]
    bound_ms = stored[1].figures["p99_bound_ms"] if stored else 100.0
    name = f"student / PyTorch teacher, requests/s at p99 <= {bound_ms:g} ms"
    yield Promise(name, _TEACHER_FACTOR, values, _source(stored), why="swiftrec bench teacher")


def _catalogue(selection: Selection) -> Iterator[Promise]:
    stored = selection.newest(CatalogueResult, lambda result: bool(result.row(LARGE_CATALOGUE)), flaw=partial)
    row = stored[1].row(LARGE_CATALOGUE) if stored else {}
    why, source = "swiftrec bench catalogue", _source(stored)
    for depth, key in ((100, "recall"), (10, "recall_10")):
        recalls = [search[key] for search in row.get("search", {}).values()]
        name = f"recall@{depth} at {LARGE_CATALOGUE:,} items, worst filter"
        yield Promise(name, _RECALL, [min(recalls)] if recalls else [], source, why=why)
    for name, whole in row.get("whole", {"whole Recommend": {"ratio": []}}).items():
        title = f"p50 at {LARGE_CATALOGUE:,} items / at 2,000: {name}"
        yield Promise(title, _MAX_SLOWDOWN, whole["ratio"], source, at_most=True, why=why)


def _peers(selection: Selection) -> Iterator[Promise]:
    tried = selection.newest(PeerSettingsResult)
    for static, title in ((False, "transformer student"), (True, "static student")):

        def has(result: PeersResult, static: bool = static) -> bool:
            return any(is_static(row["variant"]) == static for row in result.rows)

        stored = selection.newest(PeersResult, has, flaw=incomplete)
        if not stored:
            yield Promise(f"{title} against the peers", 1.0, [], why="swiftrec bench peers")
            continue
        result = stored[1]
        variants = {row["variant"] for row in result.rows if is_static(row["variant"]) == static}
        for variant in sorted(variants):
            rows = {(row["target"], row["mode"]): row for row in result.rows if row["variant"] == variant}
            tries = [row for row in (tried[1].rows if tried else []) if row["variant"] == variant]
            comparison = PeerComparison(variant, rows, result.skipped, _source(stored), tries)
            yield from comparison.promises(static=static)


@dataclass(frozen=True, slots=True)
class PeerComparison:
    """The rows of one variant, by server and mode; `tries` are other settings of the peers, from another run."""

    variant: str
    rows: Mapping[tuple[str, str], Row]
    skipped: Mapping[str, str]
    source: str
    tries: Sequence[Row] = field(default=())

    def promises(self, *, static: bool) -> Iterator[Promise]:
        """What is promised of this kind of student."""
        for peer in (TRITON,) if static else FRONTS:
            factor = _TRITON_FACTOR if static else _FRONT_FACTOR
            yield from (self._rate(UNARY, peer, mode, factor) for mode in _MODES)
        yield from (self._rate(BATCH, RUST, mode, 1.0) for mode in _MODES)
        for title, figure in (("p50 with one in flight", "p50_ms_one_in_flight"), ("p99 at 70 % load", "p99_ms_at_70")):
            yield self._latency(title, figure)
            yield from self._latency_of_tries(title, figure)

    def _rate(self, ours: str, peer: str, mode: str, bound: float) -> Promise:
        """Requests/s as shares of the floor, ours over theirs."""
        own, theirs = self.rows.get((OURS, ours)), self.rows.get((peer, mode))
        errors = f" ({theirs['errors']} errors)" if theirs and theirs["errors"] else ""  # they lower its rate
        name = f"{self.variant}, requests/s / floor: {ours} / {peer} {mode}{errors}"
        died = self.skipped.get(SEPARATOR.join((self.variant, peer, mode)), "")
        why = _not_clean(own) or _limited(own, theirs) or died or self.skipped.get(peer, "")
        return Promise(name, bound, _ratios(own, theirs, "share_of_floor"), self.source, why=why)

    def _latency(self, title: str, figure: str) -> Promise:
        """Ours over the lowest of the peers'; servers with errors or wrong rankings do not count."""
        own = self.rows.get((OURS, UNARY))
        theirs = [row for (target, _), row in self.rows.items() if target != OURS]
        best = _lowest(theirs, figure)
        peer = f"{best['target']} {best['mode']}" if best else "the best peer"
        name, values = f"{self.variant}, {title}: {UNARY} / {peer}", _ratios(own, best, figure)
        return Promise(name, 1.0, values, self.source, at_most=True, why=_not_clean(own) or _limited(own, best))

    def _latency_of_tries(self, title: str, figure: str) -> Iterator[Promise]:
        """Ours over a setting that was tried: a peer's best for throughput is not its best for latency."""
        own, best = self.rows.get((OURS, UNARY)), _lowest(self.tries, figure)
        if best is None or own is None:
            return
        why = _not_clean(own) or _limited(own, best)
        values = [own[figure] / best[figure]] if own[figure] and not why else []
        name = f"{self.variant}, {title}: {UNARY} / {best['target']} {best['mode']}, {best['tried']} (other run)"
        yield Promise(name, 1.0, values, self.source, at_most=True, why=why)


def _lowest(rows: Sequence[Row], figure: str) -> Row | None:
    """The row with the lowest figure, of those without errors and wrong rankings."""
    clean = [row for row in rows if row.get(figure) is not None and is_clean(row)]
    return min(clean, key=lambda row: float(row[figure]), default=None)


def _source(stored: tuple[Path, ToolResult] | None) -> str:
    return stored[0].name if stored else ""


def _not_clean(own: Row | None) -> str:
    """A reason if our row does not count."""
    if own is None or is_clean(own):
        return ""
    return f"this server had {own['errors']} errors and {own['wrong_answers']} wrong rankings"


def _limited(*rows: Row | None) -> str:
    """A reason if a row shows what the client can do: it is not left out, so that no slower peer counts as the best."""
    names = [f"{row['target']} {row.get('mode', '')}".rstrip() for row in rows if row and is_client_limited(row)]
    return f"the client was the limit of {' and '.join(names)}" if names else ""


def _ratios(ours: Row | None, theirs: Row | None, figure: str) -> list[float]:
    """Ours over theirs in each round; none if ours has errors, or the client limited one of them.

    If a round has no such figure, as a p99 of too few responses, it is the ratio of all rounds together.
    """
    if not ours or not theirs or _not_clean(ours) or _limited(ours, theirs):
        return []
    pairs: list[tuple[Row, Row]] = list(zip(ours["rounds"], theirs["rounds"], strict=False))
    if not all(own[figure] and other[figure] for own, other in pairs):
        pairs = [(ours, theirs)]
    return [own[figure] / other[figure] for own, other in pairs if own[figure] and other[figure]]
