"""From answers to the record: figures, shares of the teacher's, gates, and the default of each device."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np

from export.compress.rankers import SMALL, read_rankers
from export.data.reference import Reference
from export.data.vocabulary import Vocabulary
from export.evaluate.baseline_gate import compare_with_baselines
from export.evaluate.baselines import POPULARITY, WITHOUT_HISTORY
from export.evaluate.choose import Judged, defaults, fronts, judge
from export.evaluate.cold import check_cold, shortfall
from export.evaluate.compare import FROZEN, other_protocol
from export.evaluate.exposure import by_popularity
from export.evaluate.ground import Ground, teacher_size
from export.evaluate.metrics import Figure, Ranked, overlap, share
from export.evaluate.rankers import teachers_ranker
from export.evaluate.record import (
    TEACHER,
    Gate,
    Group,
    Lists,
    OtherProtocol,
    Pieces,
    Quality,
    RankerRecord,
    TeacherRecord,
    VariantRecord,
)
from export.quality import COLD_OF_IDS, NOISY_OF_CLEAN
from export.stage import Job
from export.train.encoder import teacher_checkpoint
from export.variants import Variant
from server.tuning.machine import machine

Answers = Mapping[str, Mapping[str, Ranked]]


def assemble(
    job: Job,
    ground: Ground,
    answers: Answers,
    variants: Sequence[Variant],
    probes: dict[str, Figure],
    rankers: list[RankerRecord],
    where: Mapping[str, str],
) -> Quality:
    """The whole record; `where` is variant -> the device that its answers come from.

    Raises:
        GateError: no variant passed the gates.
    """
    kept = {v.name: _retained(ground, answers, v.name) for v in variants if v.name in answers}
    values = {v.name: _values(ground, kept.get(v.name, {}), answers, v.name) for v in variants}
    judged = _judged(job, variants, values, where)
    chosen, front = defaults(judged), fronts(judged)
    names = answers.keys() - {TEACHER, *(v.name for v in variants)}
    warm, counts = ground.tasks.warm, ground.counts
    tasks = {name: ground.figures(row) for name, row in answers.items()}
    return Quality(
        protocol=job.settings.protocol,
        cases={"warm": len(warm.wanted), "cold": len(ground.tasks.cold.wanted)},
        cold_items=len(ground.split.cold),
        tasks=tasks,
        probes=probes,
        lists=_lists(ground, answers),
        wanted_by_popularity=by_popularity(warm.wanted, counts),
        groups=_groups(ground, answers, chosen["cpu"].name),
        other=other_protocol(ground, job.settings.protocol),
        teacher=_judged_teacher(_teacher(job, variants), tasks[TEACHER], len(ground.tasks.cold.wanted)),
        variants=[
            VariantRecord.of(
                j,
                kept.get(j.variant.name, {}),
                _noisy_of_clean(ground, answers, j.variant.name),
                on_front=j.variant.name in front,
            )
            for j in judged
        ],
        default=chosen,
        curve=_curve(job),
        curves=_curves(job),
        machine=machine(),
        pieces=_pieces(job),
        rankers=rankers,
        comparisons=compare_with_baselines(chosen["cpu"].name, answers, sorted(names), ground.seed),
        repeats=job.settings.repeats,
        order=ground.split.order,
    )


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
            VariantRecord.of(
                j, {}, None, on_front=j.variant.name in front, agreement=dict(kept.get(j.variant.name, {}))
            )
            for j in judged
        ],
        default=defaults(judged),
        curve=_curve(job),
        curves=_curves(job),
        machine=machine(),
        pieces=_pieces(job),
        rankers=[teachers_ranker(read_rankers(job.folder("onnx"))[0], shipped=True)],
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


def _values(ground: Ground, kept: Mapping[str, Figure], answers: Answers, name: str) -> dict[str, float | None]:
    """What the gates look at; None where there is nothing to take a share of."""
    if name not in answers:
        return {}
    common = overlap(answers[name]["text"], answers[TEACHER]["text"])
    shares = {task: kept.get(task) for task in answers[name]} | {NOISY_OF_CLEAN: _noisy_of_clean(ground, answers, name)}
    return {gate: figure.mean if figure else None for gate, figure in shares.items()} | {"overlap": common}


def _noisy_of_clean(ground: Ground, answers: Answers, name: str) -> Figure | None:
    if name not in answers:
        return None
    return share(answers[name]["noisy"].ndcg, answers[name]["text"].ndcg, ground.seed)


def _lists(ground: Ground, answers: Answers) -> dict[str, Lists]:
    """On ids for the teacher and what is compared with it, on text for the variants, whose ids are the teacher's."""
    lists = {}
    for name, row in answers.items():
        task = "text" if name not in (TEACHER, FROZEN) and "text" in row and name not in WITHOUT_HISTORY else "ids"
        if task in row:
            lists[name] = ground.lists(task, row[task])
    return lists


def _groups(ground: Ground, answers: Answers, default: str) -> dict[str, list[Group]]:
    shown = {POPULARITY: "ids", "transitions": "ids", TEACHER: "ids", default: "text"}
    return {f"{name} ({task})": ground.groups(answers[name][task]) for name, task in shown.items()}


def _teacher(job: Job, variants: Sequence[Variant]) -> TeacherRecord:
    """Its speed follows from any variant's: both were measured in the same run."""
    layers, hidden, megabytes = teacher_size(teacher_checkpoint(job))
    speeds = [v.texts_per_s_core / v.speedup_vs_teacher_pytorch for v in variants if v.speedup_vs_teacher_pytorch]
    speed = round(float(np.median(speeds)), 1) if speeds else 0.0
    return TeacherRecord(layers=layers, hidden=hidden, megabytes=megabytes, texts_per_s_core=speed)


def _judged_teacher(teacher: TeacherRecord, figures: Mapping[str, Figure], cases: int) -> TeacherRecord:
    """With its gate on *cold*, which it has passed, or --allow-lossy has excused."""
    check = check_cold(figures, cases)
    if check is None:
        return teacher.model_copy(update={"unmeasured": [COLD_OF_IDS]})
    return teacher.model_copy(update={"gates": [Gate.of(check)], "exception": shortfall(figures, cases)})


def _curve(job: Job) -> list[dict[str, float | None]]:
    path = job.folder("finetune") / "curve.json"
    curve: list[dict[str, float | None]] = json.loads(path.read_text()) if path.exists() else []
    return curve


def _curves(job: Job) -> dict[str, list[dict[str, float | None]]]:
    """BERT moving ("trunk"), further teachers by their number; then losses of students and small ranker by epoch."""
    found: dict[str, list[dict[str, float | None]]] = {
        path.stem.removeprefix("curve-"): json.loads(path.read_text())
        for path in sorted(job.folder("finetune").glob("curve-*.json"))
    }
    distilled = {path.parent.name: path for path in sorted(job.folder("distil").glob("*/student.json"))}
    ranker = job.folder("distil") / "ranker.json"
    if ranker.exists():
        distilled[SMALL] = ranker
    for name, path in distilled.items():
        losses = json.loads(path.read_text())["losses"]
        found[name] = [{"epoch": n, "loss": loss} for n, loss in enumerate(losses, 1)]
    return found


def _pieces(job: Job) -> Pieces:
    found = Vocabulary.load(job.folder("distil"))
    return Pieces(kept=found.kept, of=found.of)
