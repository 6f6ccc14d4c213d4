"""One row for each recommender of a bundle's record, which the terminal, the model card, report.html and JSON show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from swiftrec.export.schema.quality import TEACHER, Quality
from swiftrec.export.schema.record import Figure
from swiftrec.export.schema.variant import Variant


@dataclass(frozen=True, slots=True)
class Row:
    """A baseline, the teacher or a variant.

    Args:
        name: of the recommender.
        kind: which of the three.
        layers: transformer layers; None for a baseline, as all that follows up to `speedup`.
        hidden: width of the token vectors.
        precision: "int8 u8s7", "fp32", "PyTorch".
        device: the device that the graph was made for; empty for the teacher.
        megabytes: size, 10^6 bytes.
        texts_per_s: on one core; None if not measured.
        ms_batch1: milliseconds of one text alone; None if not measured.
        speedup: over the PyTorch teacher; None if not measured.
        default_on: the devices whose default it is.
        tasks: task -> NDCG@10.
        shares: task -> name -> share.
        variant: the whole record of a variant.
    """

    name: str
    kind: Literal["baseline", "teacher", "variant"]
    layers: int | None = None
    hidden: int | None = None
    precision: str = ""
    device: str = ""
    megabytes: float | None = None
    texts_per_s: float | None = None
    ms_batch1: float | None = None
    speedup: float | None = None
    default_on: tuple[str, ...] = ()
    tasks: Mapping[str, Figure] = field(default_factory=dict)
    shares: Mapping[str, Mapping[str, Figure]] = field(default_factory=dict)
    variant: Variant | None = None

    @property
    def state(self) -> str:
        """Whether it is a default or not shipped, in words; empty otherwise."""
        if self.default_on:
            return f"default ({', '.join(self.default_on)})"
        return "not shipped" if self.variant and not self.variant.shipped else ""


def rows(quality: Quality) -> list[Row]:
    """The baselines, the teacher, then every variant; without interactions there are no baselines."""
    variants = {variant.name for variant in quality.variants}
    baselines = [name for name in quality.tasks if name not in variants and name != TEACHER]
    return [
        *(_measured(quality, Row(name, "baseline")) for name in baselines),
        _measured(quality, _teacher(quality)),
        *(_measured(quality, _variant(quality, variant)) for variant in quality.variants),
    ]


def _measured(quality: Quality, row: Row) -> Row:
    """The row with the figures of its recommender."""
    return replace(row, tasks=quality.tasks.get(row.name, {}), shares=quality.shares.get(row.name, {}))


def _teacher(quality: Quality) -> Row:
    teacher = quality.teacher
    return Row(
        TEACHER,
        "teacher",
        layers=teacher.layers,
        hidden=teacher.hidden,
        precision="PyTorch",
        megabytes=teacher.megabytes,
        texts_per_s=teacher.texts_per_s_core or None,
        speedup=1.0 if teacher.texts_per_s_core else None,
    )


def _variant(quality: Quality, variant: Variant) -> Row:
    return Row(
        variant.name,
        "variant",
        layers=variant.layers,
        hidden=variant.hidden,
        precision=f"{variant.precision} {variant.form}".strip(),
        device=variant.device,
        megabytes=variant.megabytes,
        texts_per_s=variant.texts_per_s_core or None,
        ms_batch1=variant.ms_batch1 or None,
        speedup=variant.speedup_vs_teacher_pytorch or None,
        default_on=tuple(quality.devices_of(variant.name)),
        variant=variant,
    )
