"""`python -m export targets`: what this project promises of an export, each beside what stage `verify` found."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

from export.config import ExportSettings
from export.evaluate.baselines import POPULARITY
from export.evaluate.metrics import Figure
from export.evaluate.record import TEACHER, Quality, VariantRecord
from export.package.ladder import load_quality
from server.config import read_settings

_KEPT, _STATIC_KEPT, _NOISY, _OF_WARM, _OF_POPULARITY = 0.98, 0.90, 0.92, 0.5, 3.0
_SPEEDUP, _STATIC_SPEEDUP, _INVARIANCE = 8.0, 100.0, 1e-4


@dataclass(frozen=True, slots=True)
class Target:
    """One promise: `value` (None: not measured) at least, or at most, `bound`; `interval` is for the reader."""

    name: str
    bound: float
    value: float | None
    interval: tuple[float, float] | None = None
    at_most: bool = False

    @property
    def is_met(self) -> bool:
        """Whether it was measured and keeps the bound."""
        if self.value is None:
            return False
        return self.value <= self.bound if self.at_most else self.value >= self.bound

    def __str__(self) -> str:
        found = "-" if self.value is None else f"{self.value:.4g}"
        spread = f" [{self.interval[0]:.3f}, {self.interval[1]:.3f}]" if self.interval else ""
        verdict = "met" if self.is_met else "MISSED" if self.value is not None else "not measured"
        return f"{self.name}: {found}{spread}, wanted {'<=' if self.at_most else '>='} {self.bound:.4g}: {verdict}"


def main(argv: list[str]) -> int:
    """Print every promise; 0, or 1 unless all are met.

    Raises:
        ExportError: there is no bundle.
    """
    settings = read_settings(ExportSettings, argv)
    found = list(targets(load_quality(settings.artifacts / settings.name)))
    met = sum(target.is_met for target in found)
    sys.stdout.write("\n".join([*map(str, found), f"{met} of {len(found)} figures are met"]) + "\n")
    return 0 if met == len(found) else 1


def targets(quality: Quality) -> Iterator[Target]:
    """Every promise with what was measured of it."""
    default, tasks = quality.default_on_cpu, quality.tasks
    yield _teacher(quality)
    yield from _student(default, f"default ({default.variant.name})", _KEPT, _SPEEDUP)
    yield from _student(_static(quality), "static student", _STATIC_KEPT, _STATIC_SPEEDUP)
    yield _share("default, noisy / its clean", _NOISY, default.noisy_of_clean)
    row = tasks.get(default.variant.name, {})
    cold, warm, popular = row.get("cold"), row.get("ids"), tasks.get(POPULARITY, {}).get("cold")
    yield _scaled("default, NDCG@10 cold, wanted half of warm (ids)", cold, warm, _OF_WARM)
    yield _scaled("default, NDCG@10 cold, wanted 3x popularity", cold, popular, _OF_POPULARITY)
    worst = max(record.variant.batch_invariance for record in quality.shipped)
    yield Target("batch dependence, worst shipped", _INVARIANCE, worst, at_most=True)


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
    for task in ("text", "query"):
        yield _share(f"{name}, share of the teacher's {task}", kept, record.retained.get(task) if record else None)
    found = record.variant.speedup_vs_teacher_pytorch if record else 0.0
    yield Target(f"{name}, texts/s / PyTorch teacher", speedup, found or None)


def _share(name: str, bound: float, found: Figure | None) -> Target:
    return Target(name, bound, found.mean, (found.low, found.high)) if found else Target(name, bound, None)


def _scaled(name: str, found: Figure | None, other: Figure | None, times: float) -> Target:
    return _share(name, times * other.mean, found) if other else Target(name, 0.0, None)
