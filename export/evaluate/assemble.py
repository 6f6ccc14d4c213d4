"""From answers to the record: figures, shares of the teacher's, gates, and the default of each device."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from swiftrec.export.blend.record import BlendRecord
from swiftrec.export.checkpoints.vocabulary import Vocabulary
from swiftrec.export.compress.ranker_graphs import read_ranker
from swiftrec.export.evaluate.baselines import POPULARITY, TRANSITIONS
from swiftrec.export.evaluate.beyond_accuracy import by_popularity
from swiftrec.export.evaluate.compare import Evaluation, other_protocol
from swiftrec.export.evaluate.comparisons import (
    cold_fault,
    compare_cold,
    compare_groups,
    compare_named,
    compare_tasks,
    pairs_of,
)
from swiftrec.export.evaluate.context import Ground, teacher_size
from swiftrec.export.evaluate.metrics import Figure, Ranked, overlap, share
from swiftrec.export.evaluate.models_record import Gate, Pieces, RankerRecord, TeacherRecord, VariantRecord
from swiftrec.export.evaluate.record import TEACHER, Group, Lists, OtherProtocol, Quality
from swiftrec.export.evaluate.reference import Reference
from swiftrec.export.evaluate.selection import Judged, defaults, fronts, judge
from swiftrec.export.evaluate.tasks import SHARED_TASKS, Tasks
from swiftrec.export.models.encoder import teacher_checkpoint
from swiftrec.export.quality import COLD_GATE, Check
from swiftrec.export.stages.runner import Job
from swiftrec.export.variants import Variant
from swiftrec.server.tuning.machine import machine

Answers = Mapping[str, Mapping[str, Ranked]]


def assemble(
    job: Job,
    evaluation: Evaluation,
    variants: Sequence[Variant],
    probes: dict[str, Figure],
    where: Mapping[str, str],
) -> Quality:
    """The whole record; `where` is variant -> the device that its answers come from.

    Raises:
        GateError: no variant passed the gates.
    """
    ground, answers = evaluation.ground, evaluation.answers
    kept = {v.name: _retained(ground, answers, v.name) for v in variants if v.name in answers}
    values = {v.name: _values(kept.get(v.name, {}), answers, v.name) for v in variants}
    judged = _judged(job, variants, values, where)
    chosen, front = defaults(judged), fronts(judged)
    default, students = chosen["cpu"].name, {v.name for v in variants}
    names = answers.keys() - {TEACHER, *students}
    warm, counts = ground.tasks.warm, ground.counts
    return Quality(
        protocol=job.settings.protocol,
        cases=_cases(ground.tasks),
        cold_items=len(ground.split.cold),
        tasks={name: ground.figures(row) for name, row in answers.items()},
        probes=probes,
        lists=_lists(ground, answers, students),
        wanted_by_popularity=by_popularity(warm.targets, counts),
        groups=_groups(ground, answers, default),
        other=other_protocol(ground, job.settings.protocol),
        teacher=_judged_teacher(_teacher(job, variants), evaluation),
        variants=[VariantRecord.of(j, kept.get(j.variant.name, {}), on_front=j.variant.name in front) for j in judged],
        default=chosen,
        curve=_curve(job),
        curves=_curves(job),
        machine=machine(),
        pieces=_pieces(job),
        rankers=[RankerRecord.of(read_ranker(job.folder("onnx")))],
        comparisons=compare_tasks(default, answers, sorted(names), ground.seed, evaluation.levelled),
        named_comparisons=compare_named(default, evaluation),
        repeats=job.settings.repeats,
        shares={name: found for name, row in answers.items() if (found := ground.shares(row))},
        absent=dict(ground.tasks.absent),
        group_comparisons=compare_groups(default, POPULARITY, answers, ground.members, ground.seed),
        cold_pairs=pairs_of(evaluation),
        cold_share=ground.newcomers.share,
        blend=BlendRecord.load(job.folder("blend")),
        order=ground.split.order,
    )


def _cases(tasks: Tasks) -> dict[str, int]:
    """How many cases there are with histories that want warm items ("warm"), cold ones, and of each other task."""
    queries = {task: len(query.texts) for task, query in tasks.queries.items()}
    return {"warm": len(tasks.warm.targets), "cold": len(tasks.cold.targets)} | queries


def assemble_agreement(
    job: Job,
    variants: Sequence[Variant],
    kept: Mapping[str, Mapping[str, Figure]],
    where: Mapping[str, str],
    reference: Reference,
) -> Quality:
    """The record where there are no interactions; `kept` is variant -> gate ("cosine", "overlap") -> figure.

    Raises:
        GateError: no variant passed the gates.
    """
    means = {name: {gate: figure.mean for gate, figure in found.items()} for name, found in kept.items()}
    judged = _judged(job, variants, means, where)
    front = fronts(judged)
    texts, items = len(reference.texts), len(reference.items)
    remark = f"Agreement with the checkpoint as {reference.library} runs it, on {texts} texts and {items} items."
    none = OtherProtocol(protocol="", cases=0, ndcg={}, remark=remark)
    return Quality(
        protocol="agreement",
        cases={"texts": texts},
        cold_items=0,
        tasks={},
        probes={},
        lists={},
        wanted_by_popularity=[],
        groups={},
        other=none,
        teacher=_teacher(job, variants),
        variants=[
            VariantRecord.of(j, {}, on_front=j.variant.name in front, agreement=dict(kept.get(j.variant.name, {})))
            for j in judged
        ],
        default=defaults(judged),
        curve=_curve(job),
        curves=_curves(job),
        machine=machine(),
        pieces=_pieces(job),
        rankers=[RankerRecord.of(read_ranker(job.folder("onnx")))],
    )


def _judged(
    job: Job,
    variants: Sequence[Variant],
    values: Mapping[str, Mapping[str, float | None]],
    where: Mapping[str, str],
) -> list[Judged]:
    """Every variant through the quality gates."""
    is_lossy = job.settings.allow_lossy
    return [judge(v, values.get(v.name, {}), allow_lossy=is_lossy, measured_on=where.get(v.name, "")) for v in variants]


def _retained(ground: Ground, answers: Answers, name: str) -> dict[str, Figure]:
    """NDCG@10 as a share of the teacher's, for each task on which the teacher has any."""
    teacher = answers[TEACHER]
    shares = {task: share(ranked.ndcg, teacher[task].ndcg, ground.seed) for task, ranked in answers[name].items()}
    return {task: figure for task, figure in shares.items() if figure}


def _values(kept: Mapping[str, Figure], answers: Answers, name: str) -> dict[str, float | None]:
    """What the gates look at; None where there is nothing to take a share of. No encoder changes ids and cold.

    Of a share that is its interval's upper end: what lies within chance refuses nobody.
    """
    if name not in answers:
        return {}
    tasks = [task for task in answers[name] if task not in SHARED_TASKS]
    shares = {task: kept[task].high if task in kept else None for task in tasks}
    return shares | {"overlap": overlap(answers[name]["text"], answers[TEACHER]["text"])}


def _lists(ground: Ground, answers: Answers, students: Collection[str]) -> dict[str, Lists]:
    """On ids for the teacher and what is compared with it, on text for the variants, whose ids are the teacher's."""
    lists = {}
    for name, row in answers.items():
        task = "text" if name in students else "ids"
        if task in row:
            lists[name] = ground.lists(task, row[task])
    return lists


def _groups(ground: Ground, answers: Answers, default: str) -> dict[str, list[Group]]:
    shown = {POPULARITY: "ids", TRANSITIONS: "ids", TEACHER: "ids", default: "text"}
    return {f"{name} ({task})": ground.groups(answers[name][task]) for name, task in shown.items()}


def _teacher(job: Job, variants: Sequence[Variant]) -> TeacherRecord:
    """Its speed follows from any variant's: both were measured in the same run."""
    layers, hidden, megabytes = teacher_size(teacher_checkpoint(job))
    speeds = [v.texts_per_s_core / v.speedup_vs_teacher_pytorch for v in variants if v.speedup_vs_teacher_pytorch]
    speed = round(float(np.median(speeds)), 1) if speeds else 0.0
    return TeacherRecord(layers=layers, hidden=hidden, megabytes=megabytes, texts_per_s_core=speed)


def _judged_teacher(teacher: TeacherRecord, evaluation: Evaluation) -> TeacherRecord:
    """With its gate on *cold*, which it has passed, or --allow-lossy has excused."""
    compared = compare_cold(TEACHER, evaluation)
    if compared is None:
        return teacher.model_copy(update={"unmeasured": [COLD_GATE], "why_unmeasured": cold_fault(evaluation)})
    check = Check(COLD_GATE, compared.difference.high, 0.0)
    exception = str(compared) if compared.loses else ""
    return teacher.model_copy(update={"gates": [Gate.of(check)], "exception": exception})


def _curve(job: Job) -> list[dict[str, float | None]]:
    path = job.folder("finetune") / "curve.json"
    curve: list[dict[str, float | None]] = json.loads(path.read_text()) if path.exists() else []
    return curve


def _curves(job: Job) -> dict[str, list[dict[str, float | None]]]:
    """The tuning of BERT, further teachers by their number; then the students' losses by epoch."""
    found: dict[str, list[dict[str, float | None]]] = {
        path.stem.removeprefix("curve-"): json.loads(path.read_text())
        for path in sorted(job.folder("finetune").glob("curve-*.json"))
    }
    distilled = {path.parent.name: path for path in sorted(job.folder("distil").glob("*/student.json"))}
    for name, path in distilled.items():
        losses = json.loads(path.read_text())["losses"]
        found[name] = [{"epoch": n, "loss": loss} for n, loss in enumerate(losses, 1)]
    return found


def _pieces(job: Job) -> Pieces:
    found = Vocabulary.load(job.folder("distil"))
    return Pieces(kept=found.kept, of=found.total)
