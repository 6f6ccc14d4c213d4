"""`Quality` from an evaluation: figures, shares of the teacher's, gates, and the default of each device."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from swiftrec.export.checkpoints.vocabulary import Vocabulary
from swiftrec.export.compress.ranker_graphs import read_ranker
from swiftrec.export.evaluate.baselines import POPULARITY, TRANSITIONS
from swiftrec.export.evaluate.beyond_accuracy import by_popularity
from swiftrec.export.evaluate.comparisons import (
    RecommenderResults,
    cold_fault,
    cold_pairs,
    compare_cold,
    compare_groups,
    compare_named,
    compare_tasks,
)
from swiftrec.export.evaluate.context import EvaluationContext
from swiftrec.export.evaluate.evaluation import Evaluation, other_protocol
from swiftrec.export.evaluate.metrics import overlap, share
from swiftrec.export.evaluate.reference import Reference
from swiftrec.export.evaluate.selection import defaults, fronts, judge
from swiftrec.export.evaluate.tasks import SHARED_TASKS, Tasks
from swiftrec.export.gates import COLD_GATE, at_least
from swiftrec.export.job import Job
from swiftrec.export.models.encoder import teacher_checkpoint
from swiftrec.export.schema.blend import BlendRecord
from swiftrec.export.schema.comparison import OtherProtocol
from swiftrec.export.schema.models import TeacherRecord, VocabularySize
from swiftrec.export.schema.quality import TEACHER, Lists, Quality, TrainingCurve, UserGroup
from swiftrec.export.schema.record import MeanInterval
from swiftrec.export.schema.variant import Variant
from swiftrec.export.stages.evaluation_context import teacher_size
from swiftrec.server.tuning.machine import machine

AllResults = Mapping[str, RecommenderResults]
"""Recommender -> task -> its results."""


def build_quality(
    job: Job,
    evaluation: Evaluation,
    variants: Sequence[Variant],
    probes: Mapping[str, MeanInterval],
    devices: Mapping[str, str],
) -> Quality:
    """Everything that was measured, with interactions.

    Args:
        job: the run of the export.
        evaluation: has the results of the baselines, the teacher and the variants that could be run.
        variants: all variants of stage `quantise`.
        probes: recommender -> its figure on the probes.
        devices: variant -> the device that computed its results.

    Raises:
        GateError: no variant passed the gates.
    """
    context, results = evaluation.context, evaluation.results
    variants = _judged(job, [_with_retained(evaluation, variant) for variant in variants], evaluation, devices)
    default, names = defaults(variants)["cpu"].name, {variant.name for variant in variants}
    yardsticks = sorted(results.keys() - {TEACHER, *names})
    return Quality(
        **_common(job, variants),
        protocol=job.settings.protocol,
        cases=_case_counts(context.tasks),
        cold_items=len(context.split.cold),
        tasks={name: context.figures(row) for name, row in results.items()},
        probes=dict(probes),
        lists=_lists(context, results, names),
        targets_by_popularity=by_popularity(context.tasks.warm.targets, context.counts),
        groups=_groups(context, results, default),
        other=other_protocol(context, job.settings.protocol),
        teacher=_judged_teacher(_teacher(job, variants), evaluation),
        comparisons=compare_tasks(default, results, yardsticks, context.seed, evaluation.adjusted),
        named_comparisons=compare_named(default, evaluation),
        repeats=job.settings.repeats,
        shares={name: shares for name, row in results.items() if (shares := context.shares(row))},
        absent=dict(context.tasks.absent),
        group_comparisons=compare_groups(default, POPULARITY, results, context.members, context.seed),
        cold_pairs=cold_pairs(evaluation),
        cold_share=context.new_items.share,
        blend=BlendRecord.load(job.folder("blend")),
        order=context.split.order,
    )


def build_agreement(
    job: Job,
    variants: Sequence[Variant],
    agreement: Mapping[str, Mapping[str, MeanInterval]],
    devices: Mapping[str, str],
    reference: Reference,
) -> Quality:
    """Everything that was measured, without interactions.

    Args:
        job: the run of the export.
        variants: all variants of stage `quantise`.
        agreement: variant -> gate ("cosine", "overlap") -> figure.
        devices: variant -> the device that computed its vectors.
        reference: what the variants were compared with.

    Raises:
        GateError: no variant passed the gates.
    """
    judged = [
        judge(
            variant.model_copy(update={"agreement": dict(agreement.get(variant.name, {}))}),
            {gate: figure.mean for gate, figure in agreement.get(variant.name, {}).items()},
            allow_lossy=job.settings.allow_lossy,
            measured_on=devices.get(variant.name, ""),
        )
        for variant in variants
    ]
    texts, items = len(reference.texts), len(reference.items)
    remark = f"Agreement with the checkpoint as {reference.library} runs it, on {texts} texts and {items} items."
    return Quality(
        **_common(job, _with_front(judged)),
        protocol="agreement",
        cases={"texts": texts},
        cold_items=0,
        tasks={},
        probes={},
        lists={},
        targets_by_popularity=[],
        groups={},
        other=OtherProtocol(protocol="", cases=0, ndcg={}, remark=remark),
        teacher=_teacher(job, variants),
    )


def _common(job: Job, variants: list[Variant]) -> dict[str, Any]:
    """The fields that do not depend on whether there are interactions."""
    vocabulary = Vocabulary.load(job.folder("distil"))
    return {
        "variants": variants,
        "default": defaults(variants),
        "curve": read_curve(job),
        "curves": read_curves(job),
        "machine": machine(),
        "pieces": VocabularySize(kept=vocabulary.kept, total=vocabulary.total),
        "rankers": [read_ranker(job.folder("onnx"))],
    }


def _case_counts(tasks: Tasks) -> dict[str, int]:
    """The number of cases with a known target behind a history ("warm"), with a new one ("cold"), and of each query."""
    queries = {task: len(query.texts) for task, query in tasks.queries.items()}
    return {"warm": len(tasks.warm.targets), "cold": len(tasks.cold.targets)} | queries


def _with_retained(evaluation: Evaluation, variant: Variant) -> Variant:
    """The variant with its shares of the teacher's NDCG@10, for each task on which the teacher has any."""
    results, seed = evaluation.results, evaluation.context.seed
    teacher = results[TEACHER]
    shares = {task: share(own.ndcg, teacher[task].ndcg, seed) for task, own in results.get(variant.name, {}).items()}
    return variant.model_copy(update={"retained": {task: figure for task, figure in shares.items() if figure}})


def _judged(job: Job, variants: Sequence[Variant], evaluation: Evaluation, devices: Mapping[str, str]) -> list[Variant]:
    """Every variant, judged by the quality gates and marked if it is on the Pareto front."""
    is_lossy = job.settings.allow_lossy
    return _with_front(
        [
            judge(v, _gate_values(v, evaluation.results), allow_lossy=is_lossy, measured_on=devices.get(v.name, ""))
            for v in variants
        ]
    )


def _with_front(variants: Sequence[Variant]) -> list[Variant]:
    front = fronts(variants)
    return [variant.model_copy(update={"on_front": variant.name in front}) for variant in variants]


def _gate_values(variant: Variant, results: AllResults) -> dict[str, float | None]:
    """The values of the quality gates; empty if the variant was not evaluated, None for a share of 0.

    Of a share it is the upper end of the interval, so that chance refuses no variant. Tasks whose results do not depend
    on the encoder have no gate.
    """
    if variant.name not in results:
        return {}
    own, kept = results[variant.name], variant.retained
    shares = {task: kept[task].high if task in kept else None for task in own if task not in SHARED_TASKS}
    return shares | {"overlap": overlap(own["text"], results[TEACHER]["text"])}


def _lists(context: EvaluationContext, results: AllResults, variants: Collection[str]) -> dict[str, Lists]:
    """On *text* for the variants, whose results on *ids* are the teacher's; on *ids* for all others."""
    lists = {}
    for name, row in results.items():
        task = "text" if name in variants else "ids"
        if task in row:
            lists[name] = context.lists(task, row[task])
    return lists


def _groups(context: EvaluationContext, results: AllResults, default: str) -> dict[str, list[UserGroup]]:
    shown = {POPULARITY: "ids", TRANSITIONS: "ids", TEACHER: "ids", default: "text"}
    return {f"{name} ({task})": context.groups(results[name][task]) for name, task in shown.items()}


def _teacher(job: Job, variants: Sequence[Variant]) -> TeacherRecord:
    """Its speed follows from any variant's, because both were measured in the same run."""
    layers, hidden, megabytes = teacher_size(teacher_checkpoint(job))
    speeds = [v.texts_per_s_core / v.speedup_vs_teacher_pytorch for v in variants if v.speedup_vs_teacher_pytorch]
    speed = round(float(np.median(speeds)), 1) if speeds else 0.0
    return TeacherRecord(layers=layers, hidden=hidden, megabytes=megabytes, texts_per_s_core=speed)


def _judged_teacher(teacher: TeacherRecord, evaluation: Evaluation) -> TeacherRecord:
    """With its gate on *cold*, which it has passed or --allow-lossy has excused."""
    comparison = compare_cold(TEACHER, evaluation)
    if comparison is None:
        return teacher.model_copy(update={"unmeasured": (COLD_GATE,), "why_unmeasured": cold_fault(evaluation)})
    gate = at_least(COLD_GATE, comparison.difference.high, 0.0, is_loss=True)
    exception = str(comparison) if comparison.loses else ""
    return teacher.model_copy(update={"gates": (gate,), "exception": exception})


def read_curve(job: Job) -> TrainingCurve:
    """The learning curve of the teacher's head; empty if it was not trained here."""
    path = job.folder("finetune") / "curve.json"
    curve: TrainingCurve = json.loads(path.read_text()) if path.exists() else []
    return curve


def read_curves(job: Job) -> dict[str, TrainingCurve]:
    """The learning curves of BERT and of further teachers, by name, and the losses of the students."""
    curves: dict[str, TrainingCurve] = {
        path.stem.removeprefix("curve-"): json.loads(path.read_text())
        for path in sorted(job.folder("finetune").glob("curve-*.json"))
    }
    for path in sorted(job.folder("distil").glob("*/student.json")):
        losses = json.loads(path.read_text())["losses"]
        curves[path.parent.name] = [{"epoch": n, "loss": loss} for n, loss in enumerate(losses, 1)]
    return curves
