"""`swiftrec bench targets`: what this project promises of its speed, each beside what was measured.

Ratios within one run, round by round; the median decides. Machine and bundle are those of the newest full run. Each
figure is from the newest result of both that has it: work ratio and cache from `make bench` (with `--variant` for the
transformer), the rest from what joined one. Results that are left out are named on stderr.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from swiftrec.benchmarks import report
from swiftrec.benchmarks.peers.results import is_clean, is_client_limited
from swiftrec.benchmarks.peers.targets import DOCUMENTED, LIST, OURS, SEPARATOR, SPLIT, STREAM, UNARY
from swiftrec.benchmarks.suite import store
from swiftrec.benchmarks.suite.result import Result, Workload
from swiftrec.benchmarks.suite.selection import Selection, newest_run, no_full_run, partial_catalogue, partial_teacher
from swiftrec.benchmarks.suite.settings import RESULTS

FRONTS = ("pytriton", "mlserver", "litserve", "bentoml", "ray")  # gRPC, or a front in Python
TRITON, RUST = "pytriton", "mosec"
_MODES = (DOCUMENTED, SPLIT)
_WORK, _FRONT, _TRITON, _TEACHER, _HOT, _RECALL, _WHOLE = 0.90, 1.3, 1.5, 10.0, 2.0, 0.99, 2.0
_LIST_WORK = 0.95
_MANY = 1_000_000
Row = Mapping[str, Any]


class TargetsSettings(BaseSettings):
    """Each promised figure beside what was measured; exit code 1 unless all are met."""

    model_config = SettingsConfigDict(cli_prog_name="swiftrec bench targets", cli_kebab_case=True)

    results: Path = Field(RESULTS, description="folder of results")


@dataclass(frozen=True, slots=True)
class Aim:
    """One promise: at least (or at most) `bound`; `values` over the rounds, none: not measured, `why` says more."""

    name: str
    bound: float
    values: list[float]
    source: str = ""
    at_most: bool = False
    why: str = ""

    @property
    def verdict(self) -> str:
        """In words."""
        if not self.values:
            return f"not measured{f': {self.why}' if self.why else ''}"
        middle = float(np.median(self.values))
        return "met" if (middle <= self.bound if self.at_most else middle >= self.bound) else "MISSED"

    def cells(self) -> list[str]:
        """For the table."""
        found = report.spread(self.values, 3) if self.values else "-"
        return [self.name, f"{'<=' if self.at_most else '>='} {self.bound:g}", found, self.verdict, self.source]


def run(settings: TargetsSettings) -> int:
    """Print the table; the last line is JSON."""
    found = list(aims(settings.results))
    table = report.table(["figure", "wanted", "median (range)", "", "from"], [aim.cells() for aim in found])
    met = sum(aim.verdict == "met" for aim in found)
    rows = [{**asdict(aim), "verdict": aim.verdict} for aim in found]
    sys.stdout.write(f"{table}\n{met} of {len(found)} figures are met\n{report.as_json({'targets': rows})}\n")
    return 0 if met == len(found) else 1


def aims(results: Path) -> Iterator[Aim]:
    """Every promise with what was measured of it.

    Raises:
        RuntimeError: there is no result.
    """
    every = list(store.every(results))
    if not every:
        raise RuntimeError(f"{results}: no result yet: run make bench")
    said: set[str] = set()
    _, like = newest_run(every, said) or every[0]
    selection = Selection(every, like, said)
    yield from _work(selection)
    yield from _peers(selection)
    yield from _teacher(selection)
    yield from _hot(selection)
    yield from _catalogue(selection)


def is_static(variant: str) -> bool:
    """Whether it is the student without a transformer."""
    return variant.startswith("static")


def _newest(
    selection: Selection, has: Callable[[Result], bool], **reasons: Callable[[Result], str]
) -> tuple[str, Result | None]:
    """The name of its folder, and the result that `Selection.newest` takes."""
    found = selection.newest(has, **reasons)
    return (found[0].name, found[1]) if found else ("", None)


def _no_own_run(result: Result) -> str:
    """Why it is no full run of `make bench` whose server was started by it."""
    target = result.settings.get("target")
    return no_full_run(result) or (f"of a server that ran already, at {target}" if target else "")


def _work(selection: Selection) -> Iterator[Aim]:
    for workload, bound in (("mixed", _WORK), ("list", _LIST_WORK)):

        def has(one: Result, name: str = workload) -> bool:
            return name in one.workloads and one.bundle["variant"] == one.bundle.get("default")

        at, found = _newest(selection, has, unfit=_no_own_run)
        values = found.workloads[workload].work_ratio.values if found else []
        yield Aim(f"work ratio, default student, {workload}", bound, values, at, why="make bench")


def _hot(selection: Selection) -> Iterator[Aim]:
    def has(one: Result) -> bool:
        return {"hot", "mixed"} <= one.workloads.keys() and not is_static(one.bundle["variant"])

    at, found = _newest(selection, has, unfit=_no_own_run)
    values = _over(found.workloads["hot"], found.workloads["mixed"]) if found else []
    variant = found.bundle["variant"] if found else "transformer student"
    yield Aim(f"hot / mixed, recommendations per s and core, {variant}", _HOT, values, at, why="make bench, --variant")


def _over(one: Workload, other: Workload) -> list[float]:
    return [a / b for a, b in zip(one.per_s_core.values, other.per_s_core.values, strict=False)]


def _teacher(selection: Selection) -> Iterator[Aim]:
    at, found = _newest(selection, lambda one: bool(one.teacher), flaw=partial_teacher)
    values = [value for value in (found.teacher["rate_ratio"] if found else []) if value is not None]
    bound_ms = found.teacher["p99_bound_ms"] if found else 100.0
    name = f"student / PyTorch teacher, requests/s at p99 <= {bound_ms:g} ms"
    yield Aim(name, _TEACHER, values, at, why="swiftrec bench teacher")


def _catalogue(selection: Selection) -> Iterator[Aim]:
    at, found = _newest(selection, lambda one: bool(_large(one)), flaw=partial_catalogue)
    row = _large(found) if found else {}
    why = "swiftrec bench catalogue"
    for depth, field in ((100, "recall"), (10, "recall_10")):
        recalls = [one[field] for one in row.get("search", {}).values() if field in one]  # older results have one only
        name = f"recall@{depth} at {_MANY:,} items, worst filter"
        yield Aim(name, _RECALL, [min(recalls)] if recalls else [], at, why=why)
    for name, whole in row.get("whole", {"whole Recommend": {"ratio": []}}).items():
        title = f"p50 at {_MANY:,} items / at 2,000: {name}"
        yield Aim(title, _WHOLE, whole["ratio"], at, at_most=True, why=why)


def _large(result: Result) -> Row:
    """The row of the largest catalogue, approximately searched."""
    rows = (row for row in result.catalogue if (row["items"], row["index"]) == (_MANY, "approximate"))
    return next(rows, {})


def _peers(selection: Selection) -> Iterator[Aim]:
    for static, title in ((False, "transformer student"), (True, "static student")):

        def has(one: Result, static: bool = static) -> bool:
            return any(is_static(row["variant"]) == static for row in one.peers.rows)

        at, found = _newest(selection, has)
        variants = (
            {row["variant"] for row in found.peers.rows if is_static(row["variant"]) == static} if found else set()
        )
        if not found or not variants:
            yield Aim(f"{title} against the peers", 1.0, [], why="make bench-peers")
        for variant in sorted(variants):
            rows = (
                {(row["target"], row["mode"]): row for row in found.peers.rows if row["variant"] == variant}
                if found
                else {}
            )
            tries = [row for row in _tries(selection) if row["variant"] == variant]
            yield from Compared(variant, rows, found.peers.skipped if found else {}, at, tries).aims(static=static)


def _tries(selection: Selection) -> Sequence[Row]:
    _, found = _newest(selection, lambda one: bool(one.peers.tries))
    return found.peers.tries if found else ()


@dataclass(frozen=True, slots=True)
class Compared:
    """The rows of one variant, by server and mode; `tries` are other settings of the peers, from another run."""

    variant: str
    rows: Mapping[tuple[str, str], Row]
    skipped: Mapping[str, str]
    at: str
    tries: Sequence[Row] = ()

    def aims(self, *, static: bool) -> Iterator[Aim]:
        """What is promised of this kind of student."""
        for peer in (TRITON,) if static else FRONTS:
            yield from (self._against(UNARY, peer, mode, _TRITON if static else _FRONT) for mode in _MODES)
        best = max((LIST, STREAM), key=lambda mode: self.rows.get((OURS, mode), {}).get("share_of_floor") or 0.0)
        yield from (self._against(best, RUST, mode, 1.0) for mode in _MODES)
        for what, figure in (("p50 with one in flight", "p50_ms_one_in_flight"), ("p99 at 70 % load", "p99_ms_at_70")):
            yield self._least(what, figure)
            yield from self._least_tried(what, figure)

    def _against(self, ours: str, peer: str, mode: str, bound: float) -> Aim:
        """Requests/s as shares of the floor, ours over theirs."""
        mine, theirs = self.rows.get((OURS, ours)), self.rows.get((peer, mode))
        name = f"{self.variant}, requests/s / floor: {ours} / {peer} {mode}{_errors(theirs)}"
        values, why = _rounds(mine, theirs, "share_of_floor"), _limited(mine, theirs)
        died = self.skipped.get(SEPARATOR.join((self.variant, peer, mode)), "")
        return Aim(name, bound, values, self.at, why=_spoilt(mine) or why or died or self.skipped.get(peer, ""))

    def _least(self, what: str, figure: str) -> Aim:
        """Ours over the least of the peers'; servers with errors or wrong answers do not count."""
        ours = self.rows.get((OURS, UNARY))
        theirs = [
            row for (target, _), row in self.rows.items()
            if target != OURS and row[figure] is not None and is_clean(row)
        ]  # fmt: skip
        best = min(theirs, key=lambda row: float(row[figure]), default=None)
        who = f"{best['target']} {best['mode']}" if best else "the best peer"
        name, values = f"{self.variant}, {what}: {UNARY} / {who}", _rounds(ours, best, figure)
        return Aim(name, 1.0, values, self.at, at_most=True, why=_spoilt(ours) or _limited(ours, best))

    def _least_tried(self, what: str, figure: str) -> Iterator[Aim]:
        """Ours over a setting that was tried: a peer's best for throughput is not its best for latency."""
        ours = self.rows.get((OURS, UNARY))
        best = min(
            (row for row in self.tries if row.get(figure) is not None and is_clean(row)),
            key=lambda row: float(row[figure]),
            default=None,
        )
        if best is None or ours is None:
            return
        why = _spoilt(ours) or _limited(ours, best)
        values = [ours[figure] / best[figure]] if ours[figure] and not why else []
        name = f"{self.variant}, {what}: {UNARY} / {best['target']} {best['mode']}, {best['tried']} (tried apart)"
        yield Aim(name, 1.0, values, self.at, at_most=True, why=why)


def _spoilt(ours: Row | None) -> str:
    """Why our row does not count, if it does not."""
    if ours is None or is_clean(ours):
        return ""
    return f"this server had {ours['errors']} errors and {ours['wrong_answers']} wrong answers"


def _limited(*rows: Row | None) -> str:
    """Which of them say what the client can do, and not the server: they are left in, so that no other is the best."""
    names = [f"{row['target']} {row.get('mode', '')}".rstrip() for row in rows if row and is_client_limited(row)]
    return f"the client was the limit of {' and '.join(names)}" if names else ""


def _errors(theirs: Row | None) -> str:
    """Of a peer, whose rate they lower."""
    return f" ({theirs['errors']} errors)" if theirs and theirs["errors"] else ""


def _rounds(ours: Row | None, theirs: Row | None, figure: str) -> list[float]:
    """Ours over theirs in each round that both have; none where ours has errors, or the client held one back.

    Where a round of one has no such figure, as a p99 of too few answers, it is that of all rounds over that of all.
    """
    if not ours or not theirs or _spoilt(ours) or _limited(ours, theirs):
        return []
    pairs: list[tuple[Row, Row]] = list(zip(ours["rounds"], theirs["rounds"], strict=False))
    if not all(one[figure] and other[figure] for one, other in pairs):
        pairs = [(ours, theirs)]
    return [one[figure] / other[figure] for one, other in pairs if one[figure] and other[figure]]
