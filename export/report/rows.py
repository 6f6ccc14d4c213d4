"""`swiftrec report --json`: the record as rows, under the names that other programs read."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from swiftrec.export.evaluate.metrics import Figure
from swiftrec.export.evaluate.models_record import VariantRecord
from swiftrec.export.evaluate.record import TEACHER, Comparison, Quality


def as_json(quality: Quality) -> dict[str, Any]:
    """The variants that are shipped, the teacher and the baselines.

    `retained` is NDCG@10 as a share of the teacher's on the same task, `cold` NDCG@10; `tasks` has the figures with
    their 95 % intervals. `default`: of the variant's own device; `default_on` names every device that runs it.
    An `..._range` is [lowest, highest] of the rounds whose median was taken, None where an older export kept none.
    `overlap`, `cosine`: agreement with the teacher; an `..._interval` is [low, high], 95 %. `measured_on`: the device
    that gave the answers. `comparisons`: the default variant beside the best baseline of each task;
    `group_comparisons`: beside popularity within each group of users. `cold_pairs`: NDCG@10 on *cold* and *ids* with
    new items in `cold_share` of the lists of *ids*, and as each subject ranks (`own_...`). `shares`: how often
    the wanted item is "first" or "in ten" on some tasks, and how much of the ten is "violating" what a request
    excludes; `absent`: task -> why the data set cannot have it. `final`: how the served model was trained after the
    figures were measured on another one.
    """
    names = {record.variant.name for record in quality.variants}
    baselines = {name: _tasks(row) for name, row in quality.tasks.items() if name != TEACHER and name not in names}
    teacher = quality.teacher.model_dump()
    return {
        "protocol": quality.protocol,
        "machine": quality.machine,
        "variants": [_variant(record, quality) for record in quality.shipped],
        "not_shipped": [_refused(record) for record in quality.variants if not record.shipped],
        "teacher": {
            "layers": teacher["layers"],
            "hidden": teacher["hidden"],
            "mb": teacher["megabytes"],
            "texts_per_s_core": teacher["texts_per_s_core"],
            "tasks": _tasks(quality.tasks.get(TEACHER, {})),
            "shares": _shares(quality, TEACHER),
            "gates": teacher["gates"],
            "unmeasured": teacher["unmeasured"],
            "why_unmeasured": teacher["why_unmeasured"],
            "exception": teacher["exception"],
        },
        "baselines": baselines,
        "baseline_shares": {name: _shares(quality, name) for name in baselines if name in quality.shares},
        "absent": quality.absent,
        "rankers": [ranker.model_dump() for ranker in quality.rankers],
        "comparisons": [_comparison(comparison) for comparison in quality.comparisons],
        "group_comparisons": [_comparison(comparison) for comparison in quality.group_comparisons],
        "cold_share": quality.cold_share,
        "cold_pairs": {name: pair.model_dump() for name, pair in quality.cold_pairs.items()},
        "packaged": asdict(quality.packaged) if quality.packaged else None,
        "final": quality.final.model_dump() if quality.final else None,
        "pieces": quality.pieces.model_dump() if quality.pieces else None,
    }


def _variant(record: VariantRecord, quality: Quality) -> dict[str, Any]:
    v, row = record.variant, quality.tasks.get(record.variant.name, {})
    devices = quality.devices_of(v.name)
    return {
        "name": v.name,
        "default": v.device in devices,
        "default_on": devices,
        "device": v.device,
        "precision": v.precision,
        "layers": v.layers,
        "hidden": v.hidden,
        "mb": v.megabytes,
        "texts_per_s_core": v.texts_per_s_core,
        "ms_batch1": v.ms_batch1,
        "speedup_vs_teacher_pytorch": v.speedup_vs_teacher_pytorch,
        "texts_per_s_range": v.texts_per_s_range,
        "speedup_range": v.speedup_range,
        "retained": {task: kept.mean for task, kept in record.retained.items() if task != "cold"},
        "cold": row["cold"].mean if "cold" in row else None,
        "batch_invariance": v.batch_invariance,
        "measured_on": record.measured_on,
        "overlap": record.overlap,
        "overlap_interval": _interval(record.agreement.get("overlap")),
        "cosine_interval": _interval(record.agreement.get("cosine")),
        "cosine": next((gate.value for gate in record.gates if gate.gate == "cosine"), None),
        "gates": [gate.model_dump() for gate in record.gates],
        "exception": record.trouble,
        "retained_interval": {task: _interval(kept) for task, kept in record.retained.items() if task != "cold"},
        "cold_interval": _interval(row.get("cold")),
        "tasks": _tasks(row),
        "shares": _shares(quality, v.name),
    }


def _refused(record: VariantRecord) -> dict[str, Any]:
    v = record.variant
    gates = [gate.model_dump() for gate in record.gates if not gate.passed]
    return {"name": v.name, "device": v.device, "precision": v.precision, "refused": record.trouble, "gates": gates}


def _comparison(comparison: Comparison) -> dict[str, Any]:
    return comparison.model_dump() | {"loses": comparison.loses, "is_above": comparison.is_above}


def _interval(figure: Figure | None) -> list[float] | None:
    return [figure.low, figure.high] if figure else None


def _shares(quality: Quality, name: str) -> dict[str, dict[str, dict[str, float]]]:
    return {task: _tasks(found) for task, found in quality.shares.get(name, {}).items()}


def _tasks(row: dict[str, Figure]) -> dict[str, dict[str, float]]:
    return {task: {"mean": f.mean, "low": f.low, "high": f.high} for task, f in row.items()}
