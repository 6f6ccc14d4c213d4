"""`swiftrec bench against`: this server compared with that of another commit, in turn within one run.

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

from swiftrec.benchmarks import formatting
from swiftrec.benchmarks.optional_deps import collect_until_error
from swiftrec.benchmarks.server_process import extra_flags, run_load_tool, running_server, server_module
from swiftrec.benchmarks.workload import WORKLOADS, Name, make
from swiftrec.promise import Promise

GOALS: dict[str, float] = {"query": 0.68, "mixed": 0.70, "list": 0.80}
_TRANSFORMER_GOAL, _ALONE_GOAL = 0.75, 1.0
_PROBES = 32  # requests that must be the same for both
_ALONE_SHARE = 0.6  # of the prepared requests


class AgainstSettings(BaseSettings):
    """Compare CPU per request and p50 with another commit.

    Use it to judge a change of the server. Goals, as ratios to the other commit: CPU 0.68 (query), 0.70 (mixed), 0.80
    (list), 0.75 (any, with a bert encoder), p50 1.0. Prints a row for each workload; exit code 1 if a goal is missed.
    """

    model_config = SettingsConfigDict(cli_prog_name="swiftrec bench against", cli_kebab_case=True)

    tree: Path = Field(description="source tree of the other commit, e.g. made by `git worktree add`")
    bundle: Path = Field(Path("artifacts/movielens-quick"), description="bundle, or folder of versions")
    their_bundle: Path | None = Field(None, description="bundle for the other commit, if it cannot read --bundle")
    variant: str | None = Field(None, description="encoder of both; if not given, each bundle's default")
    workload: list[Name] = Field(["query", "mixed", "list"], description="requests to send: see benchmarks/workload.py")
    repeats: int = Field(3, ge=1, description="rounds")
    seconds: float = Field(4.0, gt=0, description="length of the saturated window; half of it with one in flight")
    warmup_s: float = Field(2.0, ge=0, description="seconds of load before each window")
    in_flight: int = Field(64, ge=1, le=4_096, description="recommendations in flight")
    requests: int = Field(50_000, ge=64, description="number of recommendations prepared for each window")
    seed: int = Field(7, description="random seed of the first round; each round uses the next")
    server_flags: str = Field(
        "",
        description='more flags for the server of this commit, in quotes: --server-flags="--parts ranker"',
    )


@dataclass(frozen=True, slots=True)
class Turn:
    """CPU microseconds a recommendation, recommendations a second, p50 in ms with many and with one in flight."""

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
    """Measure both in turn and print the table; 1 if a goal is missed or it ended early."""
    _check_requests(settings)
    pairs, reason = collect_until_error(_pairs(settings))
    by_workload = {name: [pair for pair in pairs if pair.workload == name] for name in settings.workload}
    measured = {name: same for name, same in by_workload.items() if same}
    rows = [_row(name, same, settings.variant) for name, same in measured.items()]
    judged = [goal for name, same in measured.items() for goal in goals(name, same, settings.variant)]
    head = ["workload", "their us", "our us", "CPU", "goal", "requests/s", "p50", "p50, one in flight", "goal"]
    figures = {"settings": settings.model_dump(mode="json"), "pairs": [asdict(pair) for pair in pairs]}
    return formatting.finish_judged("against", formatting.table(head, rows), figures, judged, reason)


def goal_of(workload: Name, variant: str | None) -> float | None:
    """The largest allowed ratio of CPU times; None if there is no goal."""
    return _TRANSFORMER_GOAL if variant and variant.startswith("bert") else GOALS.get(workload)


def _check_requests(settings: AgainstSettings) -> None:
    """Check that both bundles give the same requests.

    Raises:
        RuntimeError: they do not.
    """
    theirs = settings.their_bundle or settings.bundle
    for name in settings.workload:
        ours, others = (make(name, path, _PROBES, settings.seed).payloads for path in (settings.bundle, theirs))
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
    kind = WORKLOADS[name]
    bundle = settings.bundle if is_ours else settings.their_bundle or settings.bundle
    flags = ["--bundle", str(bundle.absolute()), "--port", "0", "--metrics-port", "0", "--sessions", "1"]
    flags += extra_flags(settings.variant, settings.server_flags if is_ours else "", has_cache=kind.repeats)
    common: dict[str, Any] = {"workload": name, "bundle": bundle, "warmup_s": settings.warmup_s}
    requests = settings.requests // kind.entries
    folder = None if is_ours else settings.tree
    module = "swiftrec.server" if is_ours else server_module(settings.tree)
    with running_server(["-m", module, *flags], folder=folder) as server:
        full = run_load_tool(
            server,
            in_flight=max(1, settings.in_flight // kind.entries),
            seconds=settings.seconds,
            requests=requests,
            seed=seed,
            **common,
        )
        alone = run_load_tool(
            server,
            in_flight=1,
            seconds=settings.seconds / 2,
            requests=max(1, int(_ALONE_SHARE * requests)),
            seed=seed + settings.repeats,
            **common,
        )
    return Turn(full["server_us"], full["throughput"], full["p50_ms"], alone["p50_ms"])


def goals(name: Name, pairs: list[Pair], variant: str | None) -> list[Promise]:
    """The goals of a workload: ratios to the other commit."""
    cpu, _, alone = zip(*(pair.ratios() for pair in pairs), strict=True)
    bound = goal_of(name, variant)
    return [
        *([Promise(f"CPU of {name}", bound, cpu, at_most=True)] if bound else []),
        Promise(f"p50 of {name} with one in flight", _ALONE_GOAL, alone, at_most=True),
    ]


def _row(name: Name, pairs: list[Pair], variant: str | None) -> list[str]:
    cpu, p50, alone = (formatting.spread(values, 3) for values in zip(*(pair.ratios() for pair in pairs), strict=True))
    us = [formatting.spread([turn.server_us for turn in turns]) for turns in _turns(pairs)]
    rates = " and ".join(f"{float(sum(t.throughput for t in turns) / len(turns)):.0f}" for turns in _turns(pairs))
    bound = goal_of(name, variant)
    return [name, *us, cpu, f"{bound:.2f}" if bound else "-", rates, p50, alone, f"{_ALONE_GOAL:.2f}"]


def _turns(pairs: list[Pair]) -> tuple[list[Turn], list[Turn]]:
    return [pair.theirs for pair in pairs], [pair.ours for pair in pairs]
