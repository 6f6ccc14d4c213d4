"""`python -m benchmarks compare`: an earlier result against a later one, each change beside its noise.

Machines drift, so times are compared as multiples of the floor that was measured in the same round, and shares as they
are. The floor runs the server's own models: what makes both slower shows as multiples of the bare server, which runs
none. The noise of a figure is the range over its rounds in both runs together, 10 % where it was measured once; a
change for the worse beyond that is a regression. A figure that one of the two lacks is missing, and no less a failure.
Runs of another machine, bundle, workload version or size are not comparable.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from benchmarks import report
from benchmarks.suite import store
from benchmarks.suite.result import Repeated, Result
from benchmarks.suite.settings import RESULTS

_LEAST_NOISE = 0.02  # a change below 2 % is none, whatever the rounds say
_NOISE_OF_ONE = 0.10  # of what a run measures once
_FEWEST = 2
_SAID = (("bundle", "version"), ("machine", "onnxruntime"), ("settings", "seed"))


class CompareSettings(BaseSettings):
    """Compare a result with an earlier one; exit code 1 if something is worse beyond the noise."""

    model_config = SettingsConfigDict(cli_prog_name="python -m benchmarks compare", cli_kebab_case=True)

    base: Path = Field(description="folder or result.json of the earlier run")
    head: Path | None = Field(None, description="folder or result.json of the later one; the newest if not given")
    results: Path = Field(RESULTS, description="folder of results")


@dataclass(frozen=True, slots=True)
class Change:
    """Of one figure: medians, change and noise as shares of the base. `is_worse`: a regression."""

    figure: str
    base: float
    head: float
    change: float
    noise: float
    is_worse: bool


def run(settings: CompareSettings) -> int:
    """Print the table; the last line is JSON."""
    if settings.base == Path():
        raise RuntimeError("--base is missing: make bench-compare BASE=benchmarks/results/...")
    later = settings.head or newest(settings.results)
    base, head = store.load(settings.base), store.load(later)
    hinders = incomparable(base, head)
    if store.file_of(settings.base).samefile(store.file_of(later)):
        hinders.append("they are one run: without --head the newest is compared")
    if hinders:
        raise RuntimeError(f"the runs cannot be compared: {'; '.join(hinders)}: measure both alike")
    found, gone = list(changes(base, head)), missing(base, head)
    if not found and not gone:
        raise RuntimeError("the runs have no figure in common with two rounds or more in each: measure again")
    rows = [
        [one.figure, f"{one.base:.3f}", f"{one.head:.3f}", f"{one.change:+.1%}", f"{one.noise:.1%}", _verdict(one)]
        for one in found
    ]
    sys.stdout.write(report.table(["figure", "base", "head", "change", "noise", ""], rows) + "\n")
    worse = [one for one in found if one.is_worse]
    sys.stdout.write(f"{len(worse)} of {len(found)} figures are worse beyond the noise\n")
    sys.stdout.writelines(f"{line}\n" for line in (*(f"missing: {one}" for one in gone), *differing(base, head)))
    sys.stdout.write(report.as_json({"changes": [asdict(one) for one in found], "missing": gone}) + "\n")
    return 1 if worse or gone else 0


def newest(results: Path) -> Path:
    """The newest result with measurements of ours.

    Raises:
        RuntimeError: there is none.
    """
    for folder, found in store.every(results):
        if found.workloads:
            return folder
    raise RuntimeError(f"{results}: no result yet: run make bench")


def incomparable(base: Result, head: Result) -> list[str]:
    """Why the two say nothing about each other; empty if they do."""
    pairs: list[tuple[dict[str, Any], dict[str, Any], str]]
    pairs = [(base.machine, head.machine, name) for name in ("cpu", "cores")]
    pairs += [(base.bundle, head.bundle, name) for name in ("name", "variant", "device")]
    pairs += [(base.settings, head.settings, name) for name in ("size", "in_flight", "slo_ms", "server_flags")]
    versions = [{name: one.version for name, one in run.workloads.items()} for run in (base, head)]
    pairs += [(versions[0], versions[1], name) for name in versions[0] if name in versions[1]]
    found = [
        f"{name}: {one.get(name)} and {two.get(name)}" for one, two, name in pairs if one.get(name) != two.get(name)
    ]
    found += [f"not valid: {run.failures[0]}" for run in (base, head) if run.failures]
    return found + [f"not whole: {run.reason}" for run in (base, head) if run.is_partial]


def differing(base: Result, head: Result) -> list[str]:
    """What differs and may explain a change, in sentences."""
    pairs = [(name, part, getattr(base, part).get(name), getattr(head, part).get(name)) for part, name in _SAID]
    return [f"note: {part} {name} differs: {one} and {two}" for name, part, one, two in pairs if one != two]


def changes(base: Result, head: Result) -> Iterator[Change]:
    """Of every figure that both have in two rounds or more, and of what is measured once."""
    before, after = _all(base), _all(head)
    for name, one in before.items():
        other = after.get(name)
        if other and _is_whole(one) and _is_whole(other) and one.rounds.median:
            yield _change(name, one, other)


def missing(base: Result, head: Result) -> list[str]:
    """Figures that one of the two has, and the other has not in every round; none that both lack."""
    pairs = [(_all(base), _all(head), "the later run"), (_all(head), _all(base), "the earlier run")]
    return [
        f"{name} in {where}"
        for one, other, where in pairs
        for name, figure in one.items()
        if _is_whole(figure) and (name not in other or not _is_whole(other[name]))
    ]


@dataclass(frozen=True, slots=True)
class _Compared:
    """A figure to be compared: its rounds, whether more is better, whether a run measures it once."""

    rounds: Repeated
    is_better_high: bool = False
    is_single: bool = False


def _is_whole(one: _Compared) -> bool:
    values = one.rounds.values
    return len(values) >= (1 if one.is_single else _FEWEST) and bool(np.isfinite(values).all())


def _all(result: Result) -> dict[str, _Compared]:
    """Every figure by its name."""
    found = {f"{name}: {figure}": one for name in result.workloads for figure, one in _figures(result, name).items()}
    return found | {"start-up s": _Compared(result.startup_s)} | _once(result)


def _figures(result: Result, name: str) -> dict[str, _Compared]:
    found = result.workloads[name]
    return {
        "work ratio": _Compared(found.work_ratio, is_better_high=True),
        "server CPU / floor": _Compared(_over(found.server_us, found.floor_us)),
        "server CPU / echo": _Compared(_over(found.server_us, found.echo_us)),
        "floor / echo": _Compared(_over(found.floor_us, found.echo_us)),
        "p99 at 70 % / floor": _tail(found.p99_ms_at_70, found.floor_us),
    }


def _tail(p99_ms: Repeated, floor_us: Repeated) -> _Compared:
    """Of each round; one figure where the rounds were too small and were taken together."""
    if len(p99_ms.values) == 1 and len(floor_us.values) >= _FEWEST:
        return _Compared(Repeated(values=[1e3 * p99_ms.median / floor_us.median]), is_single=True)
    return _Compared(_over(p99_ms, floor_us, 1e3))


def _once(result: Result) -> dict[str, _Compared]:
    """What has one value a run; rates are those of a machine on which the bare server costs one second."""
    lists = result.scenarios.get("Offline", {}).get("per_s", 0.0)
    main = result.workloads.get(result.main)
    past = [one.goodput for one in result.points if one.loop == "open" and one.share > 1.0]
    rates = {"knee": result.knee_per_s, "goodput beyond the capacity": float(np.median(past)) if past else 0.0}
    echo_s = 1e-6 * main.echo_us.median if main else float("nan")
    found = {f"{name} x echo": echo_s * rate for name, rate in (rates | {"lists of 32": lists}).items() if rate}
    singles = {name: _Compared(Repeated(values=[value]), True, True) for name, value in found.items()}
    memory = {"memory MB": _Compared(Repeated(values=[result.memory_mb]), is_single=True)} if result.memory_mb else {}
    return singles | memory


def _over(figure: Repeated, under: Repeated, scale: float = 1.0) -> Repeated:
    """Each round's value over another of the same round; nothing where one of the two is missing."""
    if len(figure.values) != len(under.values):
        return Repeated(values=[])
    pairs = zip(figure.values, under.values, strict=True)
    return Repeated(values=[scale * value / at if at else float("nan") for value, at in pairs])


def _change(figure: str, base: _Compared, head: _Compared) -> Change:
    before, after = base.rounds, head.rounds
    least = _NOISE_OF_ONE if base.is_single or head.is_single else _LEAST_NOISE
    noise = max(least, (before.span + after.span) / abs(before.median))
    change = after.median / before.median - 1.0
    worse = -change if base.is_better_high else change
    return Change(figure, before.median, after.median, change, noise, worse > noise)


def _verdict(one: Change) -> str:
    if one.is_worse:
        return "WORSE"
    return "" if abs(one.change) <= one.noise else "better"
