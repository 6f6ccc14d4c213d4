"""Refuses a recommender that loses to what is available without training, as early as that is known.

A recommender that is worse on new items than the untouched encoder is refused unless --allow-lossy is given, because
new items are the purpose of a text recommender. One that loses to a baseline on another task, or to popularity within a
group of users, is refused only with --require-baselines. Both are checked of the teacher before students are trained,
and of the default variant at the end. The table of all results is printed before a refusal.
"""

from __future__ import annotations

from collections.abc import Sequence

from swiftrec.export.data.dataset import Dataset
from swiftrec.export.errors import DataError, GateError
from swiftrec.export.evaluate.baselines import POPULARITY
from swiftrec.export.evaluate.comparisons import cold_pairs, compare_cold, compare_groups, compare_tasks
from swiftrec.export.evaluate.context import EvaluationContext
from swiftrec.export.evaluate.evaluation import Evaluation, evaluate_teacher
from swiftrec.export.evaluate.tasks import SHARED_TASKS
from swiftrec.export.gates import MIN_COLD_CASES
from swiftrec.export.job import Job
from swiftrec.export.report.rows import comparison_rows
from swiftrec.export.report.tables import cold_table, print_tables, quality_table
from swiftrec.export.schema.comparison import Comparison
from swiftrec.export.schema.quality import FROZEN, TEACHER
from swiftrec.export.stages.evaluation_context import frozen_fault, load_context
from swiftrec.export.train.pretrained import split_of


def check_teacher(job: Job) -> None:
    """Stop before students are trained if the teacher already fails.

    Raises:
        DataError: see `require_interactions`.
        GateError: see `require_teacher`.
    """
    require_interactions(job)
    if job.settings.require_baselines:
        require_teacher(job, evaluate_teacher(load_context(job)))
    elif not job.settings.allow_lossy and _has_cold_gate(job):
        _check_cold(job, load_context(job))


def require_interactions(job: Job) -> None:
    """With --require-baselines stop if the data set has no interactions to compare by.

    Raises:
        DataError: the data set has no interactions.
    """
    if job.settings.require_baselines and not Dataset.load(job.folder("data")).histories:
        raise DataError("--require-baselines needs interactions to compare by, and there are none: leave the flag out")


def require_teacher(job: Job, evaluation: Evaluation) -> None:
    """Check the teacher on *ids* and *cold*, where each variant has the same results as the teacher.

    Raises:
        GateError: see `require_cold` and `require_baselines`.
    """
    require_cold(job, evaluation, TEACHER)
    context, results = evaluation.context, evaluation.results
    shared = {task: ranked for task, ranked in results[TEACHER].items() if task in SHARED_TASKS}
    rows = {**results, TEACHER: shared}
    tasks = compare_tasks(TEACHER, rows, results.keys() - {TEACHER}, context.seed, evaluation.adjusted)
    groups = compare_groups(TEACHER, POPULARITY, rows, context.members, context.seed)
    require_baselines(job, evaluation, [*tasks, *groups])


def require_cold(job: Job, evaluation: Evaluation, name: str) -> None:
    """Stop if a recommender loses to the untouched encoder on *cold*, unless --allow-lossy is given.

    Raises:
        GateError: names both figures, the difference, and what to try.
    """
    comparison = compare_cold(name, evaluation)
    if job.settings.allow_lossy or not (comparison and comparison.loses):
        return
    print_results(job, evaluation)
    raise GateError(
        f"{comparison}: try --backbone-layers frozen or fewer --passes; --allow-lossy writes the bundle all the same"
    )


def require_baselines(job: Job, evaluation: Evaluation, comparisons: Sequence[Comparison]) -> None:
    """With --require-baselines stop if a comparison is lost.

    Raises:
        GateError: names each task, its group of users, the baseline, both figures and the difference.
    """
    lost = [str(comparison) for comparison in comparisons if comparison.loses]
    if not (job.settings.require_baselines and lost):
        return
    print_results(job, evaluation)
    raise GateError(
        f"--require-baselines: {'; '.join(lost)}: train longer (--preset full, --epochs) or with more interactions, or "
        "leave the flag out to write the bundle all the same"
    )


def print_results(job: Job, evaluation: Evaluation) -> None:
    """Print NDCG@10 of all recommenders on all tasks, and their results at the common share of new items."""
    context = evaluation.context
    figures = {name: context.figures(row) for name, row in evaluation.results.items()}
    rows = comparison_rows(figures, {}, cold_pairs(evaluation) if evaluation.adjusted else {})
    title = f"NDCG@10, {job.settings.protocol}, {len(context.tasks.warm.targets)} users"
    print_tables(job.console, [quality_table(title, rows), cold_table(rows, context.new_items.share)])


def _has_cold_gate(job: Job) -> bool:
    """Whether the data set has enough new items for the gate on *cold*."""
    dataset = Dataset.load(job.folder("data"))
    if not dataset.histories or frozen_fault(job, len(dataset.items)):
        return False
    return len(split_of(job, dataset).cold_cases.targets) >= MIN_COLD_CASES


def _check_cold(job: Job, context: EvaluationContext) -> None:
    """Check the gate on *cold*; everything else is evaluated only if it fails, for the table."""
    evaluation = Evaluation(context)
    for name, recommender in ((FROZEN, context.frozen), (TEACHER, context.teacher)):
        if recommender:
            evaluation.adjust(name, recommender.scores(recommender.of_items(context.tasks)))
    comparison = compare_cold(TEACHER, evaluation)
    if comparison and comparison.loses:
        require_cold(job, evaluate_teacher(context), TEACHER)
