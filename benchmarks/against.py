"""`swiftrec bench against`: this server beside that of another commit, in turn within one run.

Both get the same requests from the same client, each server has a core to itself, and the order changes from round to
round. In each turn 64 requests are in flight, then one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from swiftrec.benchmarks import report
from swiftrec.benchmarks.extra import gathered
from swiftrec.benchmarks.measure import load
from swiftrec.benchmarks.process import more_flags, serving
from swiftrec.benchmarks.workload import KINDS, Name, make

GOALS: dict[str, float] = {"query": 0.68, "mixed": 0.70, "list": 0.80}
_TRANSFORMER_GOAL, _ALONE_GOAL = 0.75, 1.0
_PROBES = 32  # requests that must be the same for both
_ALONE_REQUESTS = 0.6  # of those at hand


class AgainstSettings(BaseSettings):
    """CPU of a request and p50 by another commit's; goals: query .68, mixed .70, list .80, bert .75, p50 1.0."""

    model_config = SettingsConfigDict(cli_prog_name="swiftrec bench against", cli_kebab_case=True)

    tree: Path = Field(description="source tree of the other commit, e.g. made by `git worktree add`")
    bundle: Path = Field(Path("artifacts/movielens-quick"), description="bundle, or folder of versions")
    their_bundle: Path | None = Field(None, description="bundle that the other commit can read; --bundle if not given")
    variant: str | None = Field(None, description="encoder of both; each bundle's default if not given")
    workload: list[Name] = Field(["query", "mixed", "list"], description="what is sent: see benchmarks/workload.py")
    repeats: int = Field(3, ge=1, description="rounds")
    seconds: float = Field(4.0, gt=0, description="length of the window with many in flight; with one in flight half")
    warmup_s: float = Field(2.0, ge=0, description="load before each window")
    in_flight: int = Field(64, ge=1, le=4_096, description="recommendations in flight")
    requests: int = Field(50_000, ge=64, description="recommendations at hand in a turn")
    seed: int = Field(7, description="of the first round's requests; the next round takes the next")
    server_flags: str = Field(
        "",
        description='more flags of this server, as one word: --server-flags="--parts ranker" if they have none',
    )


@dataclass(frozen=True, slots=True)
class Turn:
    """CPU microseconds of a recommendation, recommendations a second, p50 in ms with many and with one in flight."""

    server_us: float
    throughput: float
    p50_ms: float
    alone_ms: float


@dataclass(frozen=True, slots=True)
class Pair:
    """Both servers in one round of a workload."""

    workload: Name
    theirs: Turn
    ours: Turn

    def ratios(self) -> tuple[float, float, float]:
        """Ours over theirs: CPU, p50 with many in flight, p50 with one."""
        ours, theirs = self.ours, self.theirs
        return (
            ours.server_us / theirs.server_us,
            ours.p50_ms / theirs.p50_ms,
            ours.alone_ms / theirs.alone_ms,
        )


def run(settings: AgainstSettings) -> int:
    """Measure both in turn and write the table; 1 if a goal is missed or it ended early."""
    _check_requests(settings)
    pairs, reason = gathered(_pairs(settings))
    rows, missed = [], []
    for name in dict.fromkeys(pair.workload for pair in pairs):
        of_one = [pair for pair in pairs if pair.workload == name]
        cells, misses = row(name, of_one, settings.variant)
        rows.append(cells)
        missed += misses
    head = ["workload", "their us", "our us", "CPU", "goal", "requests/s", "p50", "p50, one in flight", "goal"]
    verdict = f"missed: {', '.join(missed)}" if missed else "every goal is met"
    figures = {"settings": settings.model_dump(mode="json"), "pairs": [asdict(pair) for pair in pairs]}
    code = report.ended("against", f"{report.table(head, rows)}\n{verdict}", figures | {"missed": missed}, reason)
    return code or int(bool(missed))


def goal_of(workload: Name, variant: str | None) -> float | None:
    """The largest share of their CPU time that a request may take; None: there is no goal."""
    return _TRANSFORMER_GOAL if variant and variant.startswith("bert") else GOALS.get(workload)


def _check_requests(settings: AgainstSettings) -> None:
    """Both bundles give the same requests.

    Raises:
        RuntimeError: they do not.
    """
    theirs = settings.their_bundle or settings.bundle
    for name in settings.workload:
        ours, others = (make(name, one, _PROBES, settings.seed).payloads for one in (settings.bundle, theirs))
        if ours != others:
            raise RuntimeError(
                f"the requests of {name} differ between {settings.bundle} and {theirs}: give --their-bundle a bundle "
                "of the same data and the same tokenizer"
            )


def _pairs(settings: AgainstSettings) -> Iterator[Pair]:
    for number in range(settings.repeats):
        for name in settings.workload:
            seed = settings.seed + number
            if number % 2:
                ours = _turn(settings, name, seed, is_ours=True)
                yield Pair(name, _turn(settings, name, seed, is_ours=False), ours)
            else:
                theirs = _turn(settings, name, seed, is_ours=False)
                yield Pair(name, theirs, _turn(settings, name, seed, is_ours=True))


def _turn(settings: AgainstSettings, name: Name, seed: int, *, is_ours: bool) -> Turn:
    kind = KINDS[name]
    bundle = settings.bundle if is_ours else settings.their_bundle or settings.bundle
    flags = ["--bundle", str(bundle.absolute()), "--port", "0", "--metrics-port", "0", "--sessions", "1"]
    flags += more_flags(settings.variant, settings.server_flags if is_ours else "", has_cache=kind.repeats)
    common: dict[str, Any] = {"workload": name, "bundle": bundle, "warmup_s": settings.warmup_s}
    requests = settings.requests // kind.entries
    with serving(["-m", "swiftrec.server", *flags], folder=None if is_ours else settings.tree) as served:
        full = load(
            served,
            in_flight=max(1, settings.in_flight // kind.entries),
            seconds=settings.seconds,
            requests=requests,
            seed=seed,
            **common,
        )
        alone = load(
            served,
            in_flight=1,
            seconds=settings.seconds / 2,
            requests=max(1, int(_ALONE_REQUESTS * requests)),
            seed=seed + settings.repeats,
            **common,
        )
    return Turn(full["server_us"], full["throughput"], full["p50_ms"], alone["p50_ms"])


def row(name: Name, pairs: list[Pair], variant: str | None) -> tuple[list[str], list[str]]:
    """Cells of a workload, and which of its goals are missed in the median."""
    spreads = [report.spread(values, 3) for values in zip(*(pair.ratios() for pair in pairs), strict=True)]
    goal = goal_of(name, variant)
    cpu, alone = (float(spreads[place].split()[0]) for place in (0, 2))
    us = [report.spread([turn.server_us for turn in turns]) for turns in _turns(pairs)]
    rates = " and ".join(f"{float(sum(t.throughput for t in turns) / len(turns)):.0f}" for turns in _turns(pairs))
    missed = [f"CPU of {name} {cpu:.3f}, goal {goal}"] if goal and cpu > goal else []
    missed += [f"p50 of {name} with one in flight {alone:.3f}, goal {_ALONE_GOAL}"] if alone > _ALONE_GOAL else []
    shown = f"{goal:.2f}" if goal else "-"
    return [name, *us, spreads[0], shown, rates, spreads[1], spreads[2], f"{_ALONE_GOAL:.2f}"], missed


def _turns(pairs: list[Pair]) -> tuple[list[Turn], list[Turn]]:
    return [pair.theirs for pair in pairs], [pair.ours for pair in pairs]
