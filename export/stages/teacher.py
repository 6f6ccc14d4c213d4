"""`swiftrec export teacher`: the teacher compared with the baselines, by the protocol that it was trained for.

The evaluation is a stage that only this command and `swiftrec export seeds` run.
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from swiftrec.export.evaluate.comparisons import cold_pairs, compare_best_baseline, compare_named, compare_tasks
from swiftrec.export.evaluate.evaluation import Evaluation, evaluate_teacher
from swiftrec.export.job import Job
from swiftrec.export.report.rows import comparison_rows
from swiftrec.export.report.tables import cold_table, print_tables, quality_table, share_table
from swiftrec.export.schema.comparison import COMPARED, TeacherComparison
from swiftrec.export.schema.quality import TEACHER
from swiftrec.export.stages.evaluation_context import load_context
from swiftrec.export.stages.order import EVALUATION, TEACHER_STAGES
from swiftrec.export.stages.runner import run_all

_WIDTH = 260  # of the printed tables, whatever the terminal's: one line for each recommender


def compare_teacher(job: Job) -> None:
    """Run the stages up to the teacher and its evaluation, those that are stale, and print the comparison."""
    record = teacher_comparison(job)
    console = Console(width=_WIDTH)
    rows = comparison_rows(record.tasks, record.shares, record.cold_pairs)
    title = f"NDCG@10, {record.protocol}, {record.cases} users"
    print_tables(console, [quality_table(title, rows), share_table(rows), cold_table(rows, record.cold_share)])
    lines = [f"No task {task}: {why}." for task, why in record.absent.items()]
    lines += [str(comparison) for comparison in record.comparisons]
    lines.append(f"the best baseline on ids: {record.lead}")
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def teacher_comparison(job: Job) -> TeacherComparison:
    """Run the stages up to the teacher and its evaluation, those that are stale; return the evaluation's record."""
    run_all(job, TEACHER_STAGES)
    return TeacherComparison.model_validate_json((job.folder(EVALUATION.name) / COMPARED).read_bytes())


def run(job: Job, output: Path) -> None:
    """Evaluate the teacher and everything that it is compared with, and write `compared.json`."""
    with job.progress("evaluate", 2) as step:
        context = load_context(job)
        step()
        evaluation = evaluate_teacher(context)
        step()
    (output / COMPARED).write_text(_record(job, evaluation).model_dump_json(indent=1))


def _record(job: Job, evaluation: Evaluation) -> TeacherComparison:
    context, results = evaluation.context, evaluation.results
    yardsticks = sorted(results.keys() - {TEACHER})
    return TeacherComparison(
        protocol=job.settings.protocol,
        cases=len(context.tasks.warm.targets),
        tasks={name: context.figures(row) for name, row in results.items()},
        shares={name: shares for name, row in results.items() if (shares := context.shares(row))},
        absent=dict(context.tasks.absent),
        comparisons=compare_tasks(TEACHER, results, yardsticks, context.seed, evaluation.adjusted),
        named_comparisons=compare_named(TEACHER, evaluation),
        lead=compare_best_baseline(results, context.seed),
        cold_pairs=cold_pairs(evaluation),
        cold_share=context.new_items.share,
    )
