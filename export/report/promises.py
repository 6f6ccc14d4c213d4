"""`swiftrec export targets`: what this project promises of an export, each beside what was measured.

Means, and of speeds medians, are judged; their intervals, of speeds the lowest and the highest round, are for the
reader, but where a promise names an end of one. What is promised of the teacher on the global time split is judged by
teachers that learned by it with several seeds, which `swiftrec export seeds --protocol time` trains.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator

import numpy as np

from swiftrec.export.config import ExportSettings
from swiftrec.export.evaluate.models_record import VariantRecord
from swiftrec.export.evaluate.record import Quality
from swiftrec.export.evaluate.tasks import SHARED_TASKS, TASKS
from swiftrec.export.report.ladder import load_quality
from swiftrec.export.report.promise import Target
from swiftrec.export.report.quality_promises import quality_targets
from swiftrec.export.seeds.records import recorded_teachers
from swiftrec.server.catalogue.catalogue import VECTORS
from swiftrec.server.config import read_settings
from swiftrec.server.models.bundle import find_bundle

_RETAINED = 0.98
_SPEEDUP, _STATIC_SPEEDUP, _INVARIANCE = 8.0, 100.0, 1e-4
_MIN_SEEDS = 3


def main(argv: list[str]) -> int:
    """Print every promise; 0, or 1 unless all are met.

    Raises:
        ExportError: there is no bundle.
    """
    settings = read_settings(ExportSettings, argv)
    quality = load_quality(settings.bundle)
    found = [*targets(quality, settings, catalogue_size(settings)), by_time(settings)]
    met = sum(target.is_met for target in found)
    said = f"{met} of {len(found)} figures are met; means are judged, of speeds medians; [intervals] are for the reader"
    sys.stdout.write("\n".join([*map(str, found), said]) + "\n")
    return 0 if met == len(found) else 1


def catalogue_size(settings: ExportSettings) -> int:
    """Items of the newest bundle of that name."""
    vectors = np.load(find_bundle(settings.bundle) / VECTORS, mmap_mode="r", allow_pickle=False)
    return len(vectors)


def targets(quality: Quality, settings: ExportSettings, items: int) -> Iterator[Target]:
    """Every promise of a bundle with a catalogue of `items`, with what was measured of it."""
    yield from quality_targets(quality, settings, items)
    default, static = quality.default_on_cpu, _static(quality)
    yield from _students(quality)
    yield _speed(default, f"default ({default.variant.name})", _SPEEDUP)
    yield _speed(static, "static student", _STATIC_SPEEDUP)
    worst = max(record.variant.batch_invariance for record in quality.shipped)
    yield Target("batch dependence, worst shipped", _INVARIANCE, worst, at_most=True)


def by_time(settings: ExportSettings) -> Target:
    """Teachers that learned by the global time split against the best baseline of each: the mean over their seeds."""
    name = settings.name if settings.protocol == "time" else f"{settings.name}-time"
    leads = [found.lead for found in recorded_teachers(settings, name, "time").values()]
    said = f"teacher by the time split, NDCG@10 on ids minus the best baseline, mean of {len(leads)} seeds"
    if len(leads) < _MIN_SEEDS:
        flags = {"data": settings.data, "checkpoint": settings.checkpoint, "preset": settings.preset}
        given = [word for flag, value in flags.items() if value for word in (f"--{flag}", str(value))]
        how = shlex.join(["python", "-m", "swiftrec.export", "seeds", "--protocol", "time", "--name", name, *given])
        return Target(said, 0.0, None, how=f"{_MIN_SEEDS} seeds are needed: {how}")
    differences = [lead.difference.mean for lead in leads]
    return Target(said, 0.0, sum(differences) / len(differences), (min(differences), max(differences)))


def _static(quality: Quality) -> VariantRecord | None:
    """The fastest without a transformer that is shipped for CPUs."""
    own = [r for r in quality.shipped if r.variant.layers == 0 and r.variant.device == "cpu"]
    return max(own, key=lambda record: record.variant.texts_per_s_core, default=None)


def _students(quality: Quality) -> Iterator[Target]:
    """What the default keeps of the teacher on each task, and the student that keeps least of those shipped."""
    default = quality.default_on_cpu
    for task in TASKS:
        kept = {r.variant.name: r.retained[task] for r in quality.shipped if task in r.retained}
        if task in SHARED_TASKS or not kept:
            continue
        least = min(kept, key=lambda name: kept[name].mean)
        yield Target.of(
            f"default ({default.variant.name}), share of the teacher's {task}",
            _RETAINED,
            default.retained.get(task),
        )
        yield Target.of(f"least of all students ({least}), share of the teacher's {task}", _RETAINED, kept[least])


def _speed(record: VariantRecord | None, name: str, bound: float) -> Target:
    """The median of texts per second over the PyTorch teacher's, with the lowest and the highest round."""
    name = f"{name}, texts/s / PyTorch teacher"
    if record is None or not record.variant.speedup_vs_teacher_pytorch:
        return Target(name, bound, None)
    return Target(name, bound, record.variant.speedup_vs_teacher_pytorch, record.variant.speedup_range)
