"""`swiftrec bench compare`: an earlier result against a later one, each change beside the smallest visible one.

`figures` says what is compared, `bootstrap` how far it varies by chance. A change for the worse is a regression if it
is larger than the smallest change that can be told from chance. That is set so that of 20 comparisons of a server with
itself at most one finds a regression in any figure. A figure that one of the two runs lacks is missing, and no less a
failure. Runs of another machine, bundle, workload version or size are not comparable.
"""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from swiftrec.benchmarks import report
from swiftrec.benchmarks.suite import store
from swiftrec.benchmarks.suite.bootstrap import Bootstrap, Estimate, t_quantile
from swiftrec.benchmarks.suite.figures import MEMORY, Figure, Figures
from swiftrec.benchmarks.suite.measured import Run
from swiftrec.benchmarks.suite.result import Result
from swiftrec.benchmarks.suite.settings import RESULTS

FALSE_ALARMS = 0.05  # share of comparisons of a server with itself that find a regression
_LEAST_CHANGE = 0.02  # a change below 2 % is none, whatever the rounds say
_LEAST_OF_MEMORY = 0.10  # which is read once a run
_SAID = (("machine", "onnxruntime"), ("settings", "seed"))


class CompareSettings(BaseSettings):
    """Compare a result with an earlier one; exit code 1 if something is worse by more than chance explains."""

    model_config = SettingsConfigDict(cli_prog_name="swiftrec bench compare", cli_kebab_case=True)

    base: Path = Field(description="folder or result.json of the earlier run")
    head: Path | None = Field(
        None, description="folder or result.json of the later one; if not given the newest that can be compared"
    )
    results: Path = Field(RESULTS, description="folder of results")


@dataclass(frozen=True, slots=True)
class Change:
    """Of one figure, as shares of the base.

    Attributes:
        figure: its name.
        base: geometric mean over the rounds.
        head: likewise.
        change: what was found; above 0 is more.
        smallest_visible: the smallest change for the worse that can be told from chance; infinite if none can.
        is_worse: a regression.
        is_blind: not even a doubling (of a rate: a halving) could be told from chance.
    """

    figure: str
    base: float
    head: float
    change: float
    smallest_visible: float
    is_worse: bool
    is_blind: bool


def run(settings: CompareSettings) -> int:
    """Print the table; the last line is JSON."""
    if settings.base == Path():
        raise RuntimeError("--base is missing: make bench-compare BASE=benchmarks/results/...")
    base = Run.load(settings.base)
    head = Run.load(settings.head or newest(settings.results, settings.base, base.result))
    if hinders := incomparable(base.result, head.result):
        raise RuntimeError(f"the runs cannot be compared: {'; '.join(hinders)}: measure both alike")
    if settings.head and store.file_of(settings.base).samefile(store.file_of(settings.head)):
        raise RuntimeError(f"--base and --head are one run, {settings.base}: give another --head")
    figures = Figures(base, head, Bootstrap()).all()
    found, gone = changes(figures), missing(figures)
    absent = unmeasured(base.result.workloads, figures)
    if not gone and {*base.result.workloads} <= {*absent}:
        raise RuntimeError("no workload has two rounds or more in one of the runs: measure with a larger --budget-s")
    notes = [f"not compared: {name}, for want of rounds or answers in both runs" for name in absent]
    notes += [*(f"missing: {one}" for one in gone), *differing(base.result, head.result)]
    sys.stdout.write(_table(found) + "\n" + "".join(f"{line}\n" for line in [*_summary(found), *notes]))
    sys.stdout.write(report.as_json({"changes": [asdict(one) for one in found], "missing": gone}) + "\n")
    return 1 if gone or any(one.is_worse for one in found) else 0


def newest(results: Path, base_path: Path, base: Result) -> Path:
    """The newest run that can be compared with an earlier one; those that cannot are named on stderr.

    Raises:
        RuntimeError: there is none, or the earlier one is partial or not valid.
    """
    if flaws := _flaws(base, "the run"):
        raise RuntimeError(f"{base_path}: {'; '.join(flaws)}: give another --base")
    reasons = []
    for folder, found in store.every(results):
        if not found.workloads:
            continue
        file = folder / store.RESULT
        if file.samefile(store.file_of(base_path)):
            hinders = ["it is the base itself"]
        else:
            older = [f"older than the base, of {found.started}"] if found.started < base.started else []
            hinders = [*older, *incomparable(base, found)]
        if not hinders:
            return folder
        reasons.append(f"{file}: {'; '.join(hinders)}")
        store.say_left_out(reasons[-1])
    why = f"the newest is {reasons[0]}" if reasons else "there is no run"
    raise RuntimeError(f"{results}: no run to compare with {base_path} ({why}): run make bench, or give --head")


def incomparable(base: Result, head: Result) -> list[str]:
    """Why the two say nothing about each other; empty if they do."""
    pairs: list[tuple[dict[str, Any], dict[str, Any], str]]
    pairs = [(base.machine, head.machine, name) for name in ("cpu", "cores")]
    pairs += [(base.bundle, head.bundle, name) for name in ("variant", "device")]
    pairs += [(base.settings, head.settings, name) for name in ("size", "in_flight", "slo_ms", "server_flags")]
    versions = [{name: one.version for name, one in run.workloads.items()} for run in (base, head)]
    pairs.append(({"main workload": base.main}, {"main workload": head.main}, "main workload"))
    pairs += [(versions[0], versions[1], name) for name in versions[0] if name in versions[1]]
    found = [
        f"{name}: {one.get(name)} and {two.get(name)}" for one, two, name in pairs if one.get(name) != two.get(name)
    ]
    if base.bundle_id != head.bundle_id:
        found.append(f"bundle: {base.bundle_id} and {head.bundle_id}")
    return [*found, *_flaws(base, "the earlier run"), *_flaws(head, "the later run")]


def _flaws(result: Result, name: str) -> list[str]:
    """Why nothing can be compared with a run."""
    found = [f"{name} is not valid: {result.failures[0]}"] if result.failures else []
    return found + ([f"{name} is not whole: {result.reason}"] if result.is_partial else [])


def differing(base: Result, head: Result) -> list[str]:
    """What differs and may explain a change, in sentences."""
    pairs = [(name, part, getattr(base, part).get(name), getattr(head, part).get(name)) for part, name in _SAID]
    return [f"note: {part} {name} differs: {one} and {two}" for name, part, one, two in pairs if one != two]


def changes(figures: Sequence[Figure]) -> list[Change]:
    """Of every figure that both runs have."""
    pairs = [(figure, figure.base, figure.head) for figure in figures if figure.base and figure.head]
    spreads = _Spreads([(figure.kind, estimate) for figure, *both in pairs for estimate in both])
    share = 1.0 - FALSE_ALARMS / max(1, len(pairs))
    return [
        _change(figure, base, head, _visible(spreads.of(figure), share, base, head, figure.kind))
        for figure, base, head in pairs
    ]


def _visible(spread: _Spread | None, share: float, base: Estimate, head: Estimate, kind: str) -> float:
    """The logarithm of the smallest ratio that by chance is not exceeded in this share of cases."""
    if kind == MEMORY:
        return math.log1p(_LEAST_OF_MEMORY)
    if spread is None:
        return math.inf
    return max(t_quantile(share, spread.freedom) * spread.deviation(base, head), math.log1p(_LEAST_CHANGE))


def missing(figures: Sequence[Figure]) -> list[str]:
    """Figures that one of the two runs lacks, or does not have in every round."""
    lacking = [(figure, "the later run") for figure in figures if figure.base and not figure.head]
    lacking += [(figure, "the earlier run") for figure in figures if figure.head and not figure.base]
    return [f"{figure.name} in {where}" for figure, where in lacking]


def unmeasured(workloads: Iterable[str], figures: Sequence[Figure]) -> list[str]:
    """Workloads of which neither run has a figure, and the figures of the others that neither run has."""
    with_value = [figure.name for figure in figures if figure.base or figure.head]
    absent = [name for name in workloads if not any(other.startswith(f"{name}: ") for other in with_value)]
    names = [figure.name for figure in figures if not figure.base and not figure.head]
    return absent + [name for name in names if name.partition(": ")[0] not in absent]


@dataclass(frozen=True, slots=True)
class _Spread:
    """Between rounds: the variance of one round, and the degrees of freedom behind it."""

    variance: float
    freedom: int

    def deviation(self, base: Estimate, head: Estimate) -> float:
        """Standard deviation of a change, from the larger of two variances: that of its rounds, and this one."""
        of_kind = self.variance * (1 / base.rounds + 1 / head.rounds)
        return math.sqrt(max(base.variance + head.variance, of_kind))


class _Spreads:
    """Three rounds of one figure say little of its variance, those of all workloads together say more."""

    def __init__(self, estimates: Sequence[tuple[str, Estimate]]) -> None:
        by_kind: defaultdict[str, list[Estimate]] = defaultdict(list)
        for kind, estimate in estimates:
            if estimate.rounds > 1:
                by_kind[kind].append(estimate)
        self._by_kind = {kind: _pooled(ones) for kind, ones in by_kind.items()}

    def of(self, figure: Figure) -> _Spread | None:
        """That of its kind; of a mean that of its parts, as if they varied apart. None where nothing is known."""
        if not figure.parts:
            return self._by_kind.get(figure.kind)
        found = [self._by_kind[kind] for kind in figure.parts]
        variance = sum(spread.variance for spread in found) / len(found) ** 2
        return _Spread(variance, sum(self._by_kind[kind].freedom for kind in set(figure.parts)))


def _pooled(estimates: Sequence[Estimate]) -> _Spread:
    freedom = sum(one.rounds - 1 for one in estimates)
    return _Spread(sum((one.rounds - 1) * one.rounds * one.variance for one in estimates) / freedom, freedom)


def _change(figure: Figure, base: Estimate, head: Estimate, visible: float) -> Change:
    """`visible`: the logarithm of the smallest ratio that can be told from chance."""
    ratio = head.log - base.log
    worse = -ratio if figure.is_better_high else ratio
    smallest = -math.expm1(-visible) if figure.is_better_high else math.expm1(visible)
    change = math.expm1(ratio)
    return Change(figure.name, base.value, head.value, change, smallest, worse > visible, visible > math.log(2))


def _table(found: Sequence[Change]) -> str:
    rows = [
        [
            one.figure,
            f"{one.base:.3f}",
            f"{one.head:.3f}",
            f"{one.change:+.1%}",
            f"{one.smallest_visible:.1%}" if math.isfinite(one.smallest_visible) else "none",
            _verdict(one),
        ]
        for one in found
    ]
    return report.table(["figure", "base", "head", "change", "smallest visible", ""], rows)


def _verdict(one: Change) -> str:
    if one.is_worse:
        return "WORSE"
    if one.is_blind:
        return "too noisy"
    return "" if abs(one.change) <= one.smallest_visible else "better"


def _summary(found: Sequence[Change]) -> list[str]:
    worse, blind = (sum(getattr(one, name) for one in found) for name in ("is_worse", "is_blind"))
    lines = [f"{worse} of {len(found)} figures are worse by more than the smallest visible change"]
    if blind:
        lines.append(
            f"{blind} of {len(found)} figures are too noisy to show a doubling, or of a rate a halving: "
            "measure both runs with more --rounds on a quiet machine"
        )
    return lines
