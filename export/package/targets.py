"""`python -m export targets`: what this project promises of an export, each beside what stage `verify` found.

Means, and of speeds medians, are judged; their intervals, of speeds the lowest and the highest round, are for the
reader, but where a promise names an end of one. What is promised of
the teacher on the global time split is judged by a teacher that learned by it, which `python -m export teacher
--protocol time` trains. Popularity knows no cold item where training has no event of one, and is 0 there: the promise
is of three times chance, then.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from export.config import ExportSettings
from export.evaluate.baselines import POPULARITY
from export.evaluate.metrics import Figure, random_ndcg
from export.evaluate.models_record import VariantRecord
from export.evaluate.record import COMPARED, TEACHER, Compared, Comparison, Quality
from export.evaluate.tasks import SHARED_TASKS
from export.package.ladder import load_quality
from export.stage import Job
from server.catalogue.catalogue import VECTORS
from server.config import read_settings
from server.models.bundle import find_bundle

_KEPT, _STATIC_KEPT, _OF_POPULARITY = 0.98, 0.90, 3.0
_SPEEDUP, _STATIC_SPEEDUP, _INVARIANCE = 8.0, 100.0, 1e-4


@dataclass(frozen=True, slots=True)
class Target:
    """One promise: `value` (None: not measured, `how` measures it) at least, or at most, `bound`.

    `interval` is for the reader.
    """

    name: str
    bound: float
    value: float | None
    interval: tuple[float, float] | None = None
    at_most: bool = False
    how: str = ""

    @property
    def is_met(self) -> bool:
        """Whether it was measured and keeps the bound."""
        if self.value is None:
            return False
        return self.value <= self.bound if self.at_most else self.value >= self.bound

    def __str__(self) -> str:
        found = "-" if self.value is None else f"{self.value:.4g}"
        spread = f" [{self.interval[0]:.3f}, {self.interval[1]:.3f}]" if self.interval else ""
        verdict = "met" if self.is_met else "MISSED" if self.value is not None else f"not measured{self.how}"
        return f"{self.name}: {found}{spread}, wanted {'<=' if self.at_most else '>='} {self.bound:.4g}: {verdict}"


def main(argv: list[str]) -> int:
    """Print every promise; 0, or 1 unless all are met.

    Raises:
        ExportError: there is no bundle.
    """
    settings = read_settings(ExportSettings, argv)
    quality = load_quality(settings.bundle)
    found = [*targets(quality, catalogue_size(settings)), by_time(settings, quality)]
    met = sum(target.is_met for target in found)
    said = f"{met} of {len(found)} figures are met; means are judged, of speeds medians; [intervals] are for the reader"
    sys.stdout.write("\n".join([*map(str, found), said]) + "\n")
    return 0 if met == len(found) else 1


def catalogue_size(settings: ExportSettings) -> int:
    """Items of the newest bundle of that name."""
    vectors = np.load(find_bundle(settings.bundle) / VECTORS, mmap_mode="r", allow_pickle=False)
    return len(vectors)


def by_time(settings: ExportSettings, quality: Quality) -> Target:
    """The teacher that learned by the global time split against the best of all baselines there."""
    name = "teacher by the time split, NDCG@10 on ids, wanted best of all baselines"
    students = {record.variant.name for record in quality.variants}
    tasks = quality.tasks if quality.protocol == "time" else _compared(settings)
    ids = {subject: row["ids"] for subject, row in tasks.items() if "ids" in row and subject not in students}
    own = ids.pop(TEACHER, None)
    if own is None or not ids:
        flags = {"data": settings.data, "checkpoint": settings.checkpoint, "preset": settings.preset}
        given = " ".join(f"--{flag} {value}" for flag, value in flags.items() if value)
        how = f": python -m export teacher --protocol time --name {settings.name}-time {given}"
        return Target(name, 0.0, None, how=how)
    best = max(ids, key=lambda subject: ids[subject].mean)
    return _share(f"{name} ({best})", ids[best].mean, own)


def _compared(settings: ExportSettings) -> dict[str, dict[str, Figure]]:
    """What `export teacher` kept for the time split; nothing where it was not run, or its teacher was trained anew."""
    path = Job(settings.model_copy(update={"name": f"{settings.name}-time"})).folder("finetune") / COMPARED
    try:
        found = Compared.model_validate_json(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found.tasks if found.protocol == "time" else {}


def targets(quality: Quality, items: int) -> Iterator[Target]:
    """Every promise of a bundle of so many items with what was measured of it."""
    default, tasks = quality.default_on_cpu, quality.tasks
    yield _teacher(quality)
    yield from _student(default, f"default ({default.variant.name})", _KEPT, _SPEEDUP)
    yield from _student(_static(quality), "static student", _STATIC_KEPT, _STATIC_SPEEDUP)
    cold, popular = tasks.get(default.variant.name, {}).get("cold"), tasks.get(POPULARITY, {}).get("cold")
    yield _over_popularity(cold, popular, random_ndcg(items))
    yield from map(_distance, quality.comparisons)
    lost = sum(comparison.loses for comparison in quality.group_comparisons)
    yield Target("groups of users in which the default loses to popularity", 0, lost, at_most=True)
    worst = max(record.variant.batch_invariance for record in quality.shipped)
    yield Target("batch dependence, worst shipped", _INVARIANCE, worst, at_most=True)


def _distance(comparison: Comparison) -> Target:
    """Met where the default is above the best yardstick of a task, or not below it by more than chance."""
    name = f"default, upper end of NDCG@10 on {comparison.task} minus {comparison.baseline}"
    found = comparison.difference
    return Target(name, 0.0, found.high, (found.low, found.high))


def _over_popularity(cold: Figure | None, popular: Figure | None, chance: float) -> Target:
    """Three times popularity as training sees it, or three times chance where that is more."""
    name = "default, NDCG@10 cold, wanted 3x popularity"
    if popular is None:
        return Target(name, 0.0, None)
    name += f" as training sees it ({popular.mean:.4f}) or chance ({chance:.4f})"
    return _share(name, _OF_POPULARITY * max(popular.mean, chance), cold)


def _teacher(quality: Quality) -> Target:
    """Met where the baseline is not above the teacher's interval."""
    own, other = (quality.tasks.get(name, {}).get("ids") for name in (TEACHER, "transitions"))
    name = "teacher, upper end of NDCG@10 on ids, wanted transitions"
    if own is None or other is None:
        return Target(name, 0.0, None)
    return Target(name, other.mean, own.high, (own.low, own.high))


def _static(quality: Quality) -> VariantRecord | None:
    """The fastest without a transformer that is shipped for CPUs."""
    own = [r for r in quality.shipped if r.variant.layers == 0 and r.variant.device == "cpu"]
    return max(own, key=lambda record: record.variant.texts_per_s_core, default=None)


def _student(record: VariantRecord | None, name: str, kept: float, speedup: float) -> Iterator[Target]:
    shares = record.retained if record else dict.fromkeys(("text", "query"))
    for task, share in shares.items():
        if task not in SHARED_TASKS:
            yield _share(f"{name}, share of the teacher's {task}", kept, share)
    found, rounds = (record.variant.speedup_vs_teacher_pytorch, record.variant.speedup_range) if record else (0.0, None)
    yield Target(f"{name}, texts/s / PyTorch teacher", speedup, found or None, rounds)


def _share(name: str, bound: float, found: Figure | None) -> Target:
    return Target(name, bound, found.mean, (found.low, found.high)) if found else Target(name, bound, None)
