"""`swiftrec export targets`: what this project promises about an export, and what was measured.

Means are judged, and medians of speeds; their intervals (the lowest and the highest round of a speed) are for the
reader, unless a promise names an end of one. The promise about the teacher on the global time split is judged by
teachers trained by that split with several seeds (`swiftrec export seeds --protocol time`).
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator

import numpy as np
from pydantic_settings import CliSuppress, SettingsConfigDict

from swiftrec.export.config import BUNDLE_FLAGS, ExportSettings, show_in_help
from swiftrec.export.evaluate.tasks import SHARED_TASKS, TASKS
from swiftrec.export.promises.quality import promise_of, quality_promises
from swiftrec.export.report.command import load_quality
from swiftrec.export.schema.quality import Quality
from swiftrec.export.schema.variant import Variant
from swiftrec.export.seeds.records import recorded_teachers
from swiftrec.promise import Promise
from swiftrec.server.catalogue.catalogue import VECTORS
from swiftrec.server.models.bundle import find_bundle
from swiftrec.server.settings_reader import read_settings

_RETAINED = 0.98
_SPEEDUP, _STATIC_SPEEDUP, _INVARIANCE = 8.0, 100.0, 1e-4
_MIN_SEEDS = 3


class PromiseSettings(ExportSettings):
    """Compare each promised figure of a bundle with what was measured; exit code 1 if a promise is not kept.

    The bundle is named by --name, or by the flags that it was exported with; the other flags of the export are accepted
    and change nothing.
    """

    model_config = SettingsConfigDict(cli_prog_name="swiftrec export targets")

    stage: CliSuppress[None] = None


show_in_help(PromiseSettings, {*BUNDLE_FLAGS, "checkpoint"})


def main(argv: list[str]) -> int:
    """Print every promise; 0, or 1 unless all are met.

    Raises:
        ExportError: there is no bundle.
    """
    settings = read_settings(PromiseSettings, argv)
    quality = load_quality(settings.bundle)
    judged = [*all_promises(quality, settings, catalogue_size(settings)), by_time(settings)]
    met = sum(promise.is_met for promise in judged)
    total = f"{met} of {len(judged)} promises are met; means, and medians of speeds, are judged, not their [intervals]"
    sys.stdout.write("\n".join([*map(str, judged), total]) + "\n")
    return 0 if met == len(judged) else 1


def catalogue_size(settings: ExportSettings) -> int:
    """Items of the newest bundle of that name."""
    vectors = np.load(find_bundle(settings.bundle) / VECTORS, mmap_mode="r", allow_pickle=False)
    return len(vectors)


def all_promises(quality: Quality, settings: ExportSettings, items: int) -> Iterator[Promise]:
    """Every promise about a bundle with a catalogue of `items`."""
    yield from quality_promises(quality, settings, items)
    default, static = quality.default_on_cpu, _static(quality)
    yield from _students(quality)
    yield _speed(default, f"default ({default.name})", _SPEEDUP)
    yield _speed(static, "static student", _STATIC_SPEEDUP)
    worst = max(record.batch_invariance for record in quality.shipped)
    yield Promise("batch dependence, worst shipped", _INVARIANCE, [worst], at_most=True)


def by_time(settings: ExportSettings) -> Promise:
    """Teachers trained by the global time split minus the best baseline of each: the mean over their seeds."""
    name = settings.name if settings.protocol == "time" else f"{settings.name}-time"
    leads = [record.lead for record in recorded_teachers(settings, name, "time").values()]
    promised = f"teacher by the time split, NDCG@10 on ids minus the best baseline, mean of {len(leads)} seeds"
    if len(leads) < _MIN_SEEDS:
        flags = {"data": settings.data, "checkpoint": settings.checkpoint, "preset": settings.preset}
        given = [word for flag, value in flags.items() if value for word in (f"--{flag}", str(value))]
        command = shlex.join(["swiftrec", "export", "seeds", "--protocol", "time", "--name", name, *given])
        return Promise(promised, 0.0, [], why=f"{_MIN_SEEDS} seeds are needed: {command}")
    differences = [lead.difference.mean for lead in leads]
    interval = (min(differences), max(differences))
    return Promise(promised, 0.0, [sum(differences) / len(differences)], interval=interval)


def _static(quality: Quality) -> Variant | None:
    """The fastest shipped variant for CPUs without transformer layers."""
    variants = [r for r in quality.shipped if r.layers == 0 and r.device == "cpu"]
    return max(variants, key=lambda record: record.texts_per_s_core, default=None)


def _students(quality: Quality) -> Iterator[Promise]:
    """On each task, the default's share of the teacher's NDCG@10, and the lowest share of all shipped variants."""
    default = quality.default_on_cpu
    for task in TASKS:
        kept = {r.name: r.retained[task] for r in quality.shipped if task in r.retained}
        if task in SHARED_TASKS or not kept:
            continue
        least = min(kept, key=lambda name: kept[name].mean)
        yield promise_of(
            f"default ({default.name}), share of the teacher's {task}",
            _RETAINED,
            default.retained.get(task),
        )
        yield promise_of(f"least of all students ({least}), share of the teacher's {task}", _RETAINED, kept[least])


def _speed(record: Variant | None, name: str, bound: float) -> Promise:
    """The median of texts per second over the PyTorch teacher's, with the lowest and the highest round."""
    name = f"{name}, texts/s / PyTorch teacher"
    if record is None or not record.speedup_vs_teacher_pytorch:
        return Promise(name, bound, [])
    return Promise(name, bound, [record.speedup_vs_teacher_pytorch], interval=record.speedup_range)
