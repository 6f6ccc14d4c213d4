"""`swiftrec bench compare`: compares an earlier run with a later one, each change with the smallest visible one.

`figures` says what is compared, `bootstrap` how far it varies by chance. A change for the worse is a regression if it
is larger than the smallest change that chance does not explain. That is set so that of 20 comparisons of a server with
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

from swiftrec.benchmarks import formatting, result_files
from swiftrec.benchmarks.result_files import RESULTS
from swiftrec.benchmarks.suite.bootstrap import Bootstrap, Estimate, t_quantile
from swiftrec.benchmarks.suite.figures import ComparedFigure, Figures
from swiftrec.benchmarks.suite.result import Result
from swiftrec.benchmarks.suite.results import MeasuredRun
from swiftrec.benchmarks.suite.rows import MEMORY

FALSE_ALARMS = 0.05  # share of comparisons of a server with itself that find a regression
_LEAST_CHANGE = 0.02  # smaller changes never count
_LEAST_MEMORY_CHANGE = 0.10  # memory is read once a run
_NOTED = (("machine", "onnxruntime"), ("settings", "seed"))


class CompareSettings(BaseSettings):
    """Compare a run with an earlier one and report significant changes.

    Use it after a change of the code. Prints a table; exit code 1 if a figure is significantly worse.
    """

    model_config = SettingsConfigDict(cli_prog_name="swiftrec bench compare", cli_kebab_case=True)

    base: Path = Field(description="folder or bench.json of the earlier run")
    head: Path | None = Field(
        None, description="folder or bench.json of the later run; if not given, the newest comparable one"
    )
    results: Path = Field(RESULTS, description="folder of results")


@dataclass(frozen=True, slots=True)
class Change:
    """How one figure changed, as shares of the earlier run.

    Attributes:
        figure: its name.
        base: geometric mean over the rounds.
        head: likewise.
        change: the measured change; above 0 the figure is higher.
        smallest_visible: the smallest change for the worse that chance does not explain; infinite if there is none.
        is_worse: a regression.
        is_blind: not even a doubling (of a rate: a halving) would be more than chance.
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
        raise RuntimeError("--base is missing: swiftrec bench compare --base benchmarks/results/FOLDER")
    base = MeasuredRun.load(settings.base)
    head = MeasuredRun.load(settings.head or newest(settings.results, settings.base, base.result))
    if reasons := incomparable(base.result, head.result):
        raise RuntimeError(f"the runs cannot be compared: {'; '.join(reasons)}: measure both in the same way")
    if settings.head and _is_same_file(settings.base, settings.head):
        raise RuntimeError(f"--base and --head are one run, {settings.base}: give another --head")
    figures = Figures(base, head, Bootstrap()).all()
    compared, lost = changes(figures), missing(figures)
    unknown = unmeasured(base.result.workloads, figures)
    if not lost and {*base.result.workloads} <= {*unknown}:
        raise RuntimeError("no workload has two rounds or more in one of the runs: measure with a larger --budget-s")
    notes = [f"not compared: {name}: too few rounds or responses in both runs" for name in unknown]
    notes += [*(f"missing: {figure}" for figure in lost), *differing(base.result, head.result)]
    lines = [_table(compared), *_summary(compared), *notes]
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    values = {"changes": [asdict(change) for change in compared], "missing": lost}
    sys.stdout.write(formatting.as_json(values) + "\n")
    return 1 if lost or any(change.is_worse for change in compared) else 0


def newest(results: Path, base_path: Path, base: Result) -> Path:
    """The newest run that can be compared with an earlier one; stderr names those that cannot.

    Raises:
        RuntimeError: there is none, or the earlier one is partial or not valid.
    """
    if flaws := _flaws(base, "the run"):
        raise RuntimeError(f"{base_path}: {'; '.join(flaws)}: give another --base")
    reasons = []
    for folder, result in result_files.load_all(results, Result):
        if _is_same_file(folder, base_path):
            against = ["it is the base itself"]
        else:
            older = [f"older than the base, of {result.started}"] if result.started < base.started else []
            against = [*older, *incomparable(base, result)]
        if not against:
            return folder
        reasons.append(f"{folder / Result.file}: {'; '.join(against)}")
        result_files.report_ignored(reasons[-1])
    why = f"the newest is {reasons[0]}" if reasons else "there is no run"
    raise RuntimeError(f"{results}: no run to compare with {base_path} ({why}): run swiftrec bench, or give --head")


def _is_same_file(path: Path, other: Path) -> bool:
    return result_files.result_file(path, Result).samefile(result_files.result_file(other, Result))


def incomparable(base: Result, head: Result) -> list[str]:
    """Why two runs cannot be compared; empty if they can."""
    pairs: list[tuple[dict[str, Any], dict[str, Any], str]]
    pairs = [(base.machine, head.machine, name) for name in ("cpu", "cores")]
    pairs += [(base.bundle, head.bundle, name) for name in ("variant", "device")]
    pairs += [(base.settings, head.settings, name) for name in ("size", "in_flight", "slo_ms", "server_flags")]
    versions = [{name: workload.version for name, workload in run.workloads.items()} for run in (base, head)]
    pairs.append(({"main workload": base.main}, {"main workload": head.main}, "main workload"))
    pairs += [(versions[0], versions[1], name) for name in versions[0] if name in versions[1]]
    reasons = [f"{name}: {a.get(name)} and {b.get(name)}" for a, b, name in pairs if a.get(name) != b.get(name)]
    if base.bundle_id != head.bundle_id:
        reasons.append(f"bundle: {base.bundle_id} and {head.bundle_id}")
    return [*reasons, *_flaws(base, "the earlier run"), *_flaws(head, "the later run")]


def _flaws(result: Result, name: str) -> list[str]:
    """Why nothing can be compared with a run."""
    flaws = [f"{name} is not valid: {result.failures[0]}"] if result.failures else []
    return flaws + ([f"{name} is partial: {result.reason}"] if result.is_partial else [])


def differing(base: Result, head: Result) -> list[str]:
    """What differs and may explain a change, in sentences."""
    pairs = [(name, part, getattr(base, part).get(name), getattr(head, part).get(name)) for part, name in _NOTED]
    return [f"note: {part} {name} differs: {a} and {b}" for name, part, a, b in pairs if a != b]


def changes(figures: Sequence[ComparedFigure]) -> list[Change]:
    """The change of every figure that both runs have."""
    pairs = [(figure, figure.base, figure.head) for figure in figures if figure.base and figure.head]
    spreads = _Spreads([(figure.kind, estimate) for figure, *both in pairs for estimate in both])
    share = 1.0 - FALSE_ALARMS / max(1, len(pairs))
    return [
        _change(figure, base, head, _visible(spreads.spread(figure), share, base, head, figure.kind))
        for figure, base, head in pairs
    ]


def _visible(spread: _Spread | None, share: float, base: Estimate, head: Estimate, kind: str) -> float:
    """The logarithm of the smallest ratio that by chance is not exceeded in this share of cases."""
    if kind == MEMORY:
        return math.log1p(_LEAST_MEMORY_CHANGE)
    if spread is None:
        return math.inf
    return max(t_quantile(share, spread.freedom) * spread.deviation(base, head), math.log1p(_LEAST_CHANGE))


def missing(figures: Sequence[ComparedFigure]) -> list[str]:
    """Figures that one of the two runs lacks, or does not have in every round."""
    lacking = [(figure, "the later run") for figure in figures if figure.base and not figure.head]
    lacking += [(figure, "the earlier run") for figure in figures if figure.head and not figure.base]
    return [f"{figure.name} in {run}" for figure, run in lacking]


def unmeasured(workloads: Iterable[str], figures: Sequence[ComparedFigure]) -> list[str]:
    """Workloads of which neither run has a figure, and the figures of the others that neither run has."""
    with_value = [figure.name for figure in figures if figure.base or figure.head]
    absent = [name for name in workloads if not any(other.startswith(f"{name}: ") for other in with_value)]
    names = [figure.name for figure in figures if not figure.base and not figure.head]
    return absent + [name for name in names if name.partition(": ")[0] not in absent]


@dataclass(frozen=True, slots=True)
class _Spread:
    """The variance of one round around the mean of its rounds, and its degrees of freedom."""

    variance: float
    freedom: int

    def deviation(self, base: Estimate, head: Estimate) -> float:
        """Standard deviation of a change, from the larger of two variances: that of its rounds, and this one."""
        of_kind = self.variance * (1 / base.rounds + 1 / head.rounds)
        return math.sqrt(max(base.variance + head.variance, of_kind))


class _Spreads:
    """Pools the variances of figures of one kind, since three rounds of a single figure say little of its variance."""

    def __init__(self, estimates: Sequence[tuple[str, Estimate]]) -> None:
        by_kind: defaultdict[str, list[Estimate]] = defaultdict(list)
        for kind, estimate in estimates:
            if estimate.rounds > 1:
                by_kind[kind].append(estimate)
        self._by_kind = {kind: _pooled(estimates) for kind, estimates in by_kind.items()}

    def spread(self, figure: ComparedFigure) -> _Spread | None:
        """The spread of a figure's kind; of a mean that of its parts, as if they were independent. None if unknown."""
        if not figure.parts:
            return self._by_kind.get(figure.kind)
        spreads = [self._by_kind[kind] for kind in figure.parts]
        variance = sum(spread.variance for spread in spreads) / len(spreads) ** 2
        return _Spread(variance, sum(self._by_kind[kind].freedom for kind in set(figure.parts)))


def _pooled(estimates: Sequence[Estimate]) -> _Spread:
    freedom = sum(estimate.rounds - 1 for estimate in estimates)
    return _Spread(
        sum((estimate.rounds - 1) * estimate.rounds * estimate.variance for estimate in estimates) / freedom, freedom
    )


def _change(figure: ComparedFigure, base: Estimate, head: Estimate, visible: float) -> Change:
    """`visible`: the logarithm of the smallest ratio that chance does not explain."""
    ratio = head.log - base.log
    worse = -ratio if figure.is_better_high else ratio
    smallest = -math.expm1(-visible) if figure.is_better_high else math.expm1(visible)
    change = math.expm1(ratio)
    return Change(figure.name, base.value, head.value, change, smallest, worse > visible, visible > math.log(2))


def _table(compared: Sequence[Change]) -> str:
    rows = [
        [
            change.figure,
            f"{change.base:.3f}",
            f"{change.head:.3f}",
            f"{change.change:+.1%}",
            f"{change.smallest_visible:.1%}" if math.isfinite(change.smallest_visible) else "none",
            _verdict(change),
        ]
        for change in compared
    ]
    return formatting.table(["figure", "base", "head", "change", "smallest visible", ""], rows)


def _verdict(change: Change) -> str:
    if change.is_worse:
        return "WORSE"
    if change.is_blind:
        return "too noisy"
    return "" if abs(change.change) <= change.smallest_visible else "better"


def _summary(compared: Sequence[Change]) -> list[str]:
    worse, blind = (sum(getattr(change, name) for change in compared) for name in ("is_worse", "is_blind"))
    lines = [f"{worse} of {len(compared)} figures are worse by more than the smallest visible change"]
    if blind:
        lines.append(
            f"{blind} of {len(compared)} figures are too noisy to show a doubling, or of a rate a halving: "
            "measure both runs with more --rounds on a quiet machine"
        )
    return lines
