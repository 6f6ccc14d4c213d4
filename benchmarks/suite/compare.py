"""`python -m benchmarks compare`: an earlier result against a later one, each change beside its noise.

Machines drift, so times are compared as multiples of the floor that was measured in the same round, and shares as they
are. The noise of a figure is the range over its rounds in both runs together; a change for the worse beyond that is a
regression. Runs of another machine, bundle, workload version or size are not comparable.
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
_FEWEST = 2


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
        raise RuntimeError(f"the runs cannot be compared: {'; '.join(hinders)}")
    found = list(changes(base, head))
    if not found:
        raise RuntimeError("the runs have no figure in common with two rounds or more in each")
    rows = [
        [one.figure, f"{one.base:.3f}", f"{one.head:.3f}", f"{one.change:+.1%}", f"{one.noise:.1%}", _verdict(one)]
        for one in found
    ]
    sys.stdout.write(report.table(["figure", "base", "head", "change", "noise", ""], rows) + "\n")
    worse = [one for one in found if one.is_worse]
    sys.stdout.write(f"{len(worse)} of {len(found)} figures are worse beyond the noise\n")
    sys.stdout.write(report.as_json({"changes": [asdict(one) for one in found]}) + "\n")
    return 1 if worse else 0


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


def changes(base: Result, head: Result) -> Iterator[Change]:
    """Of every figure that both have in two rounds or more."""
    for name in base.workloads:
        if name in head.workloads:
            pairs = zip(_figures(base, name), _figures(head, name), strict=True)
            for (figure, before, is_better_high), (_, after, _) in pairs:
                yield from _change(f"{name}: {figure}", before, after, is_better_high=is_better_high)
    yield from _change("start-up s", base.startup_s, head.startup_s, is_better_high=False)


def _figures(result: Result, name: str) -> list[tuple[str, Repeated, bool]]:
    """(figure, its rounds, whether more is better)."""
    found = result.workloads[name]
    return [
        ("work ratio", found.work_ratio, True),
        ("server CPU / floor", _over(found.server_us, found.floor_us), False),
        ("p99 at 70 % / floor", _over(found.p99_ms_at_70, found.floor_us, 1e3), False),
    ]


def _over(figure: Repeated, floor: Repeated, scale: float = 1.0) -> Repeated:
    """Each round's value over its own floor; nothing where one of the two is missing."""
    if len(figure.values) != len(floor.values):
        return Repeated(values=[])
    return Repeated(values=[scale * value / at for value, at in zip(figure.values, floor.values, strict=True) if at])


def _change(figure: str, base: Repeated, head: Repeated, *, is_better_high: bool) -> Iterator[Change]:
    if min(len(base.values), len(head.values)) < _FEWEST or not np.isfinite([base.median, head.median]).all():
        return
    noise = max(_LEAST_NOISE, (base.span + head.span) / abs(base.median))
    change = head.median / base.median - 1.0
    worse = -change if is_better_high else change
    yield Change(figure, base.median, head.median, change, noise, worse > noise)


def _verdict(one: Change) -> str:
    if one.is_worse:
        return "WORSE"
    return "" if abs(one.change) <= one.noise else "better"
