"""`swiftrec report --json`: the record under the names that other programs read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from swiftrec.export.report.rows import RecommenderRow, rows
from swiftrec.export.schema.comparison import Comparison
from swiftrec.export.schema.quality import Quality
from swiftrec.export.schema.record import MeanInterval
from swiftrec.export.schema.variant import Variant


def as_json(quality: Quality) -> dict[str, Any]:
    """The shipped variants, those that are not shipped, the teacher and the baselines.

    `retained` is NDCG@10 as a share of the teacher's on the same task, `cold` NDCG@10; `tasks` has the figures with
    their 95 % intervals. `default`: of the variant's own device; `default_on` names every device that runs it.
    An `..._range` is [lowest, highest] of the rounds whose median is reported, None in the record of an older export.
    `overlap`, `cosine`: agreement with the teacher; an `..._interval` is [low, high], 95 %. `measured_on`: the device
    that computed the results. `comparisons`: the default variant and the best baseline of each task;
    `group_comparisons`: the same with popularity within each group of users. `cold_pairs`: NDCG@10 on *cold* and *ids*
    with new items in `cold_share` of the lists of *ids*, and unadjusted (`own_...`). `shares`: how often the target is
    "first" or "in ten" on some tasks, and the share of the ten "violating" what a request excludes; `absent`: task ->
    why the data set cannot have it. `final`: how the served model was trained after the measured one. `examples`:
    requests, and the items of the bundle and of the untrained encoder.
    """
    by_kind: dict[str, list[RecommenderRow]] = {"baseline": [], "teacher": [], "variant": []}
    for row in rows(quality):
        by_kind[row.kind].append(row)
    (teacher,), baselines = by_kind["teacher"], by_kind["baseline"]
    return {
        "protocol": quality.protocol,
        "machine": quality.machine,
        "variants": [_variant(row, row.variant) for row in by_kind["variant"] if row.variant and row.variant.shipped],
        "not_shipped": [_refused(variant) for variant in quality.variants if not variant.shipped],
        "teacher": _teacher(teacher, quality),
        "baselines": {row.name: _figures(row.tasks) for row in baselines},
        "baseline_shares": {row.name: _shares(row) for row in baselines if row.shares},
        "absent": quality.absent,
        "rankers": [ranker.model_dump() for ranker in quality.rankers],
        "comparisons": [_comparison(comparison) for comparison in quality.comparisons],
        "group_comparisons": [_comparison(comparison) for comparison in quality.group_comparisons],
        "cold_share": quality.cold_share,
        "cold_pairs": {name: pair.model_dump() for name, pair in quality.cold_pairs.items()},
        "packaged": asdict(quality.packaged) if quality.packaged else None,
        "final": quality.final.model_dump() if quality.final else None,
        "pieces": quality.pieces.model_dump() if quality.pieces else None,
        "examples": [example.model_dump() for example in quality.examples],
    }


def _teacher(row: RecommenderRow, quality: Quality) -> dict[str, Any]:
    record = quality.teacher.model_dump()
    kept = ("gates", "unmeasured", "why_unmeasured", "exception", "texts_per_s_core")
    shape = {"layers": row.layers, "hidden": row.hidden, "mb": row.megabytes}
    return {**shape, "tasks": _figures(row.tasks), "shares": _shares(row), **{name: record[name] for name in kept}}


def _variant(row: RecommenderRow, variant: Variant) -> dict[str, Any]:
    retained = {task: kept for task, kept in variant.retained.items() if task != "cold"}
    cold = row.tasks.get("cold")
    own = ("name", "device", "precision", "layers", "hidden", "texts_per_s_core", "ms_batch1", "batch_invariance")
    speed = ("speedup_vs_teacher_pytorch", "texts_per_s_range", "speedup_range", "measured_on", "overlap")
    return {
        **{name: getattr(variant, name) for name in (*own, *speed)},
        "default": variant.device in row.default_on,
        "default_on": list(row.default_on),
        "mb": variant.megabytes,
        "retained": {task: kept.mean for task, kept in retained.items()},
        "retained_interval": {task: _interval(kept) for task, kept in retained.items()},
        "cold": cold.mean if cold else None,
        "cold_interval": _interval(cold),
        "overlap_interval": _interval(variant.agreement.get("overlap")),
        "cosine": next((gate.value for gate in variant.gates if gate.gate == "cosine"), None),
        "cosine_interval": _interval(variant.agreement.get("cosine")),
        "gates": [asdict(gate) for gate in variant.gates],
        "exception": variant.failed,
        "tasks": _figures(row.tasks),
        "shares": _shares(row),
    }


def _refused(variant: Variant) -> dict[str, Any]:
    gates = [asdict(gate) for gate in variant.gates if not gate.passed]
    identity = {"name": variant.name, "device": variant.device, "precision": variant.precision}
    return {**identity, "refused": variant.failed, "gates": gates}


def _comparison(comparison: Comparison) -> dict[str, Any]:
    return comparison.model_dump() | {"loses": comparison.loses, "is_above": comparison.is_above}


def _interval(figure: MeanInterval | None) -> list[float] | None:
    return [figure.low, figure.high] if figure else None


def _shares(row: RecommenderRow) -> dict[str, dict[str, dict[str, float]]]:
    return {task: _figures(names) for task, names in row.shares.items()}


def _figures(figures: Mapping[str, MeanInterval]) -> dict[str, dict[str, float]]:
    return {name: asdict(figure) for name, figure in figures.items()}
