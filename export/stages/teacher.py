"""`swiftrec export teacher`: the teacher beside the baselines, by the protocol that it was trained for.

The evaluation is a stage, which only this command and `swiftrec export seeds` run.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from swiftrec.export.evaluate.baseline_gate import evaluate_teacher
from swiftrec.export.evaluate.compare import Answers, Evaluation
from swiftrec.export.evaluate.comparisons import compare_named, compare_tasks, pairs_of
from swiftrec.export.evaluate.context import Ground
from swiftrec.export.evaluate.record import COMPARED, RANKER_ALONE, TEACHER, TEXT_ALONE, Compared, Comparison
from swiftrec.export.report.tables import cold_table, figures_table, shares_table
from swiftrec.export.stages.order import EVALUATION
from swiftrec.export.stages.runner import Job, run_all, teacher_job

_PARTS = (RANKER_ALONE, TEXT_ALONE)
_WIDTH = 260  # whatever the terminal: a subject is one line


def compare_teacher(job: Job) -> None:
    """Run the stages up to the teacher and its evaluation, those that are stale, and print what was found."""
    found = teacher_figures(job)
    console = Console(width=_WIDTH)
    console.print(figures_table(f"NDCG@10, {found.protocol}, {found.cases} users", found.tasks))
    if found.shares:
        console.print(shares_table(found.shares))
    if found.cold_pairs:
        console.print(cold_table(found.cold_pairs, found.cold_share))
    lines = [f"No task {task}: {why}." for task, why in found.absent.items()]
    lines += [str(comparison) for comparison in found.comparisons]
    lines.append(f"the best baseline on ids: {found.lead}")
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def teacher_figures(job: Job) -> Compared:
    """Run the stages up to the teacher and its evaluation, those that are stale; what was found."""
    job = teacher_job(job)
    run_all(job)
    return Compared.model_validate_json((job.folder(EVALUATION.name) / COMPARED).read_bytes())


def run(job: Job, out: Path) -> None:
    """Evaluate the teacher and everything that it is compared with, and write `compared.json`."""
    with job.progress("evaluate", 2) as step:
        ground = Ground.load(job)
        step()
        evaluation = evaluate_teacher(ground)
        step()
    (out / COMPARED).write_text(_compared(job, evaluation).model_dump_json(indent=1))


def _compared(job: Job, evaluation: Evaluation) -> Compared:
    ground, answers = evaluation.ground, evaluation.answers
    others = sorted(answers.keys() - {TEACHER})
    return Compared(
        protocol=job.settings.protocol,
        cases=len(ground.tasks.warm.targets),
        tasks={name: ground.figures(row) for name, row in answers.items()},
        shares={name: found for name, row in answers.items() if (found := ground.shares(row))},
        absent=dict(ground.tasks.absent),
        comparisons=compare_tasks(TEACHER, answers, others, ground.seed, evaluation.levelled),
        named_comparisons=compare_named(TEACHER, evaluation),
        lead=lead(answers, ground.seed),
        cold_pairs=pairs_of(evaluation),
        cold_share=ground.newcomers.share,
    )


def lead(answers: Mapping[str, Answers], seed: int) -> Comparison:
    """The teacher beside the best baseline on *ids*; no part of its own score is one."""
    ids = {name: {"ids": row["ids"]} for name, row in answers.items() if "ids" in row and name not in _PARTS}
    (found,) = compare_tasks(TEACHER, ids, ids.keys() - {TEACHER}, seed)
    return found
