"""Figures of several seeds as mean, lowest and highest, and the paired differences of each seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from swiftrec.export.schema.comparison import ColdPair, Comparison, TeacherComparison
from swiftrec.export.schema.quality import TEACHER, Quality
from swiftrec.export.schema.record import MeanInterval

DEFAULT, BEST = "default variant", "best yardstick"
_Row = Mapping[str, MeanInterval]


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured with one seed; `quality` only of a whole export."""

    seed: int
    teacher: TeacherComparison
    quality: Quality | None = None


@dataclass(frozen=True, slots=True)
class SeedSpread:
    """Mean, lowest and highest of the means over the cases, one for each seed that has them."""

    mean: float
    low: float
    high: float
    seeds: int

    def __str__(self) -> str:
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"

    @classmethod
    def of(cls, means: Sequence[float]) -> Self:
        """The spread of at least one mean."""
        return cls(sum(means) / len(means), min(means), max(means), len(means))


@dataclass(frozen=True, slots=True)
class Paired:
    """A recommender minus a yardstick on one task, `by_seed` (None: not measured with that seed).

    `yardstick` is the name of the other recommender, or the best one of the task or the best baseline of each seed.
    """

    subject: str
    task: str
    yardstick: str
    by_seed: tuple[Comparison | None, ...]

    @property
    def mean(self) -> float:
        """Mean of the differences over the seeds that have one."""
        means = [comparison.difference.mean for comparison in self.by_seed if comparison]
        return sum(means) / len(means)


Spreads = dict[str, dict[str, SeedSpread]]


@dataclass(frozen=True, slots=True)
class SeedsSummary:
    """Everything that is printed.

    `tasks` is NDCG@10 and `cold` NDCG@10 on *cold* and *ids* at the common share of new items, by subject; `shares` has
    what `export.evaluate.tasks.SHARES` names, as "task name"; `retained` is a student's share of the teacher's NDCG@10.
    """

    seeds: tuple[int, ...]
    tasks: Spreads
    shares: Spreads
    cold: Spreads
    retained: Spreads
    paired: tuple[Paired, ...]

    @classmethod
    def of(cls, measured: Sequence[Measured]) -> Self:
        """Summarise at least one seed."""
        pairs = [{name: {"cold": p.cold, "ids": p.ids} for name, p in _cold_pairs(run).items()} for run in measured]
        return cls(
            seeds=tuple(run.seed for run in measured),
            tasks=_spreads([{**run.teacher.tasks, **_of_default(run)} for run in measured]),
            shares=_spreads([_shares(run) for run in measured]),
            cold=_spreads(pairs),
            retained=_spreads([_retained(run.quality) for run in measured]),
            paired=tuple(_paired(measured)),
        )


def _spreads(by_seed: Sequence[Mapping[str, _Row]]) -> Spreads:
    """Recommender -> column -> spread, in the order in which they first occur."""
    means: dict[str, dict[str, list[float]]] = {}
    for rows in by_seed:
        for subject, row in rows.items():
            for column, figure in row.items():
                means.setdefault(subject, {}).setdefault(column, []).append(figure.mean)
    return {
        subject: {column: SeedSpread.of(values) for column, values in row.items()} for subject, row in means.items()
    }


def _default_name(quality: Quality) -> str:
    return quality.default_on_cpu.name


def _of_default(run: Measured) -> dict[str, _Row]:
    """The default variant's NDCG@10, under one name for all seeds: which variant it is may differ."""
    return {DEFAULT: run.quality.tasks[_default_name(run.quality)]} if run.quality else {}


def _cold_pairs(run: Measured) -> dict[str, ColdPair]:
    pairs = dict(run.teacher.cold_pairs)
    if run.quality and (own := run.quality.cold_pairs.get(_default_name(run.quality))):
        pairs[DEFAULT] = own
    return pairs


def _shares(run: Measured) -> dict[str, _Row]:
    shares = dict(run.teacher.shares)
    if run.quality and (own := run.quality.shares.get(_default_name(run.quality))):
        shares[DEFAULT] = own
    return {
        subject: {f"{task} {name}": figure for task, row in tasks.items() for name, figure in row.items()}
        for subject, tasks in shares.items()
    }


def _retained(quality: Quality | None) -> dict[str, _Row]:
    return {record.name: record.retained for record in quality.shipped} if quality else {}


def _paired(measured: Sequence[Measured]) -> Iterator[Paired]:
    teachers, wholes = [run.teacher for run in measured], [run.quality for run in measured]
    yield from _align(TEACHER, [record.comparisons for record in teachers], BEST)
    yield from _align(TEACHER, [[record.lead] for record in teachers], "best baseline")
    yield from _align(TEACHER, [record.named_comparisons for record in teachers])
    yield from _align(DEFAULT, [quality.comparisons if quality else [] for quality in wholes], BEST)
    yield from _align(DEFAULT, [quality.named_comparisons if quality else [] for quality in wholes])


def _align(subject: str, by_seed: Sequence[Sequence[Comparison]], yardstick: str = "") -> Iterator[Paired]:
    """The comparisons of all seeds, by task and `yardstick`, or by task and baseline if no yardstick is given."""

    def key(comparison: Comparison) -> tuple[str, str]:
        task = f"{comparison.task} at the same share of new items" if comparison.is_level else comparison.task
        return task, yardstick or comparison.baseline

    rows = [{key(comparison): comparison for comparison in comparisons} for comparisons in by_seed]
    for task, name in dict.fromkeys(pair for row in rows for pair in row):
        yield Paired(subject, task, name, tuple(row.get((task, name)) for row in rows))
