"""Figures of several seeds as mean, lowest and highest, and the paired differences of each seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from swiftrec.export.evaluate.metrics import Figure
from swiftrec.export.evaluate.record import TEACHER, ColdPair, Compared, Comparison, Quality

DEFAULT, BEST = "default variant", "best yardstick"
_Row = Mapping[str, Figure]


@dataclass(frozen=True, slots=True)
class Measured:
    """What was found with one seed; `quality` only of a whole export."""

    seed: int
    teacher: Compared
    quality: Quality | None = None


@dataclass(frozen=True, slots=True)
class Spread:
    """Means over the cases, one for each seed that has them: mean, lowest and highest."""

    mean: float
    low: float
    high: float
    seeds: int

    def __str__(self) -> str:
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"

    @classmethod
    def of(cls, means: Sequence[float]) -> Self:
        """Of at least one."""
        return cls(sum(means) / len(means), min(means), max(means), len(means))


@dataclass(frozen=True, slots=True)
class Paired:
    """A recommender minus a yardstick on one task, `by_seed` (None: not measured with that seed).

    `yardstick` is the one that is compared with, or the best of the task or the best baseline of each seed.
    """

    subject: str
    task: str
    yardstick: str
    by_seed: tuple[Comparison | None, ...]

    @property
    def mean(self) -> float:
        """Mean of the differences over the seeds that have one."""
        means = [one.difference.mean for one in self.by_seed if one]
        return sum(means) / len(means)


Spreads = dict[str, dict[str, Spread]]


@dataclass(frozen=True, slots=True)
class Summary:
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
        """Of at least one seed."""
        pairs = [{name: {"cold": p.cold, "ids": p.ids} for name, p in _cold_pairs(one).items()} for one in measured]
        return cls(
            seeds=tuple(one.seed for one in measured),
            tasks=_spreads([{**one.teacher.tasks, **_of_default(one)} for one in measured]),
            shares=_spreads([_shares(one) for one in measured]),
            cold=_spreads(pairs),
            retained=_spreads([_retained(one.quality) for one in measured]),
            paired=tuple(_paired(measured)),
        )


def _spreads(by_seed: Sequence[Mapping[str, _Row]]) -> Spreads:
    """Subject -> column -> spread, in the order in which they first occur."""
    means: dict[str, dict[str, list[float]]] = {}
    for rows in by_seed:
        for subject, row in rows.items():
            for column, figure in row.items():
                means.setdefault(subject, {}).setdefault(column, []).append(figure.mean)
    return {subject: {column: Spread.of(some) for column, some in row.items()} for subject, row in means.items()}


def _default_name(quality: Quality) -> str:
    return quality.default_on_cpu.variant.name


def _of_default(one: Measured) -> dict[str, _Row]:
    """The default variant's NDCG@10, under one name for all seeds: which variant it is may differ."""
    return {DEFAULT: one.quality.tasks[_default_name(one.quality)]} if one.quality else {}


def _cold_pairs(one: Measured) -> dict[str, ColdPair]:
    pairs = dict(one.teacher.cold_pairs)
    if one.quality and (own := one.quality.cold_pairs.get(_default_name(one.quality))):
        pairs[DEFAULT] = own
    return pairs


def _shares(one: Measured) -> dict[str, _Row]:
    shares = dict(one.teacher.shares)
    if one.quality and (own := one.quality.shares.get(_default_name(one.quality))):
        shares[DEFAULT] = own
    return {
        subject: {f"{task} {name}": figure for task, row in tasks.items() for name, figure in row.items()}
        for subject, tasks in shares.items()
    }


def _retained(quality: Quality | None) -> dict[str, _Row]:
    return {record.variant.name: record.retained for record in quality.shipped} if quality else {}


def _paired(measured: Sequence[Measured]) -> Iterator[Paired]:
    teachers, wholes = [one.teacher for one in measured], [one.quality for one in measured]
    yield from _align(TEACHER, [found.comparisons for found in teachers], BEST)
    yield from _align(TEACHER, [[found.lead] for found in teachers], "best baseline")
    yield from _align(TEACHER, [found.named_comparisons for found in teachers])
    yield from _align(DEFAULT, [quality.comparisons if quality else [] for quality in wholes], BEST)
    yield from _align(DEFAULT, [quality.named_comparisons if quality else [] for quality in wholes])


def _align(subject: str, by_seed: Sequence[Sequence[Comparison]], yardstick: str = "") -> Iterator[Paired]:
    """One for each task and `yardstick`, or each task and the baseline that it is compared with if none is given."""

    def key(one: Comparison) -> tuple[str, str]:
        task = f"{one.task} at the same share of new items" if one.is_level else one.task
        return task, yardstick or one.baseline

    found = [{key(one): one for one in comparisons} for comparisons in by_seed]
    for task, name in dict.fromkeys(pair for row in found for pair in row):
        yield Paired(subject, task, name, tuple(row.get((task, name)) for row in found))
