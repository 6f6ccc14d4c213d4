"""One row for each recommender of a bundle's record, which the terminal, the model card, report.html and JSON show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from swiftrec.export.evaluate.tasks import TASKS
from swiftrec.export.schema.comparison import ColdPair
from swiftrec.export.schema.quality import TEACHER, Lists, Quality, UserGroup
from swiftrec.export.schema.record import MeanInterval
from swiftrec.export.schema.variant import Variant


@dataclass(frozen=True, slots=True)
class RecommenderRow:
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
        lists: what NDCG does not say about its lists; None if not measured.
        cold_pair: *cold* and *ids* at the common share of new items; None if not measured.
        groups: task -> NDCG@10 of each group of users.
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
    tasks: Mapping[str, MeanInterval] = field(default_factory=dict)
    shares: Mapping[str, Mapping[str, MeanInterval]] = field(default_factory=dict)
    lists: Lists | None = None
    cold_pair: ColdPair | None = None
    groups: Mapping[str, list[UserGroup]] = field(default_factory=dict)
    variant: Variant | None = None

    @property
    def state(self) -> str:
        """Whether it is a default or not shipped, in words; empty otherwise."""
        if self.default_on:
            return f"default ({', '.join(self.default_on)})"
        return "not shipped" if self.variant and not self.variant.shipped else ""


def rows(quality: Quality) -> list[RecommenderRow]:
    """The baselines, the teacher, then every variant; without interactions there are no baselines."""
    variants = {variant.name for variant in quality.variants}
    baselines = [name for name in quality.tasks if name not in variants and name != TEACHER]
    shapes = [
        *(RecommenderRow(name, "baseline") for name in baselines),
        _teacher(quality),
        *(_variant(quality, variant) for variant in quality.variants),
    ]
    measured = [_measured(row, quality.tasks, quality.shares, quality.cold_pairs) for row in shapes]
    return [replace(row, lists=quality.lists.get(row.name), groups=_groups(quality, row.name)) for row in measured]


def comparison_rows(
    tasks: Mapping[str, Mapping[str, MeanInterval]],
    shares: Mapping[str, Mapping[str, Mapping[str, MeanInterval]]],
    cold_pairs: Mapping[str, ColdPair],
) -> list[RecommenderRow]:
    """The rows of an evaluation of the teacher, which has neither variants nor speeds.

    Args:
        tasks: recommender -> task -> NDCG@10; its recommenders are the rows.
        shares: recommender -> task -> name -> share.
        cold_pairs: recommender -> *cold* and *ids* at the common share of new items.
    """
    shapes = [RecommenderRow(name, "teacher" if name == TEACHER else "baseline") for name in tasks]
    return [_measured(row, tasks, shares, cold_pairs) for row in shapes]


def _measured(
    row: RecommenderRow,
    tasks: Mapping[str, Mapping[str, MeanInterval]],
    shares: Mapping[str, Mapping[str, Mapping[str, MeanInterval]]],
    cold_pairs: Mapping[str, ColdPair],
) -> RecommenderRow:
    """The row with the figures of its recommender."""
    name = row.name
    return replace(row, tasks=tasks.get(name, {}), shares=shares.get(name, {}), cold_pair=cold_pairs.get(name))


def _groups(quality: Quality, name: str) -> dict[str, list[UserGroup]]:
    """Task -> the groups of a recommender, which the record keeps under "recommender (task)"."""
    keys = {task: f"{name} ({task})" for task in TASKS}
    return {task: quality.groups[key] for task, key in keys.items() if quality.groups.get(key)}


def _teacher(quality: Quality) -> RecommenderRow:
    teacher = quality.teacher
    return RecommenderRow(
        TEACHER,
        "teacher",
        layers=teacher.layers,
        hidden=teacher.hidden,
        precision="PyTorch",
        megabytes=teacher.megabytes,
        texts_per_s=teacher.texts_per_s_core or None,
        speedup=1.0 if teacher.texts_per_s_core else None,
    )


def _variant(quality: Quality, variant: Variant) -> RecommenderRow:
    return RecommenderRow(
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
