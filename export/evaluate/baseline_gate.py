"""Refusals by what could be had instead, as early as they are known, with the table of all that was measured.

A recommender that finds new items worse than the untouched encoder is refused unless --allow-lossy is given: new items
are what a text recommender is there for. One that loses to a baseline on another task, or to popularity within a group
of users, is refused only with --require-baselines. Both are checked of the teacher before students are trained, and of
the default at the end.
"""

from __future__ import annotations

from collections.abc import Sequence

from swiftrec.export.data.dataset import Dataset
from swiftrec.export.errors import DataError, GateError
from swiftrec.export.evaluate.baselines import POPULARITY
from swiftrec.export.evaluate.compare import Evaluation
from swiftrec.export.evaluate.comparisons import compare_cold, compare_groups, compare_tasks, pairs_of
from swiftrec.export.evaluate.context import Ground, frozen_fault
from swiftrec.export.evaluate.record import FROZEN, TEACHER, Comparison
from swiftrec.export.evaluate.tasks import SHARED_TASKS
from swiftrec.export.quality import MIN_COLD_CASES
from swiftrec.export.report.tables import cold_table, figures_table
from swiftrec.export.stages.runner import Job
from swiftrec.export.train.pretrained import parts_of


def require_baselines(job: Job, evaluation: Evaluation, comparisons: Sequence[Comparison]) -> None:
    """With --require-baselines print the table and stop where a comparison is lost.

    Raises:
        GateError: names each task, its group of users, the baseline, both figures and the difference.
    """
    lost = [str(comparison) for comparison in comparisons if comparison.loses]
    if not (job.settings.require_baselines and lost):
        return
    print_table(job, evaluation)
    raise GateError(
        f"--require-baselines: {'; '.join(lost)}: train longer (--preset full, --epochs) or with more interactions, or "
        "leave the flag out to write the bundle all the same"
    )


def require_cold(job: Job, evaluation: Evaluation, subject: str) -> None:
    """Print the table and stop where `subject` loses to the untouched encoder on *cold*, unless --allow-lossy is given.

    Raises:
        GateError: names both figures, the difference, and what to try.
    """
    compared = compare_cold(subject, evaluation)
    if job.settings.allow_lossy or not (compared and compared.loses):
        return
    print_table(job, evaluation)
    raise GateError(
        f"{compared}: try --trunk frozen, fewer --passes, or a --pull above 0; --allow-lossy writes the bundle all the "
        "same"
    )


def require_teacher(job: Job, evaluation: Evaluation) -> None:
    """Both refusals as early as they are known: on *ids* and *cold* every variant answers as the teacher does.

    Raises:
        GateError: see `require_cold` and `require_baselines`.
    """
    require_cold(job, evaluation, TEACHER)
    answers = evaluation.answers
    known = {task: ranked for task, ranked in answers[TEACHER].items() if task in SHARED_TASKS}
    ground, rows = evaluation.ground, {**answers, TEACHER: known}
    compared = compare_tasks(TEACHER, rows, answers.keys() - {TEACHER}, ground.seed, evaluation.levelled)
    groups = compare_groups(TEACHER, POPULARITY, rows, ground.members, ground.seed)
    require_baselines(job, evaluation, [*compared, *groups])


def require_interactions(job: Job) -> None:
    """With --require-baselines stop where there is nothing to compare by.

    Raises:
        DataError: the data set has no interactions.
    """
    if job.settings.require_baselines and not Dataset.load(job.folder("data")).histories:
        raise DataError("--require-baselines needs interactions to compare by, and there are none: leave the flag out")


def check(job: Job) -> None:
    """Stop before students are trained if the teacher already fails.

    Raises:
        DataError: see `require_interactions`.
        GateError: see `require_teacher`.
    """
    require_interactions(job)
    if job.settings.require_baselines:
        require_teacher(job, evaluate_teacher(Ground.load(job)))
    elif not job.settings.allow_lossy and _has_cold_gate(job):
        _check_cold(job, Ground.load(job))


def evaluate_teacher(ground: Ground) -> Evaluation:
    """The baselines, parts of the teacher's score alone, and the teacher on every task."""
    evaluation = Evaluation(ground)
    evaluation.add_baselines()
    evaluation.add_parts()
    evaluation.add(TEACHER, ground.teacher)
    return evaluation


def print_table(job: Job, evaluation: Evaluation) -> None:
    """Print NDCG@10 of all subjects on all tasks, and what they find of new items at the common share."""
    ground = evaluation.ground
    figures = {name: ground.figures(row) for name, row in evaluation.answers.items()}
    job.console.print(
        figures_table(f"NDCG@10, {job.settings.protocol}, {len(ground.tasks.warm.targets)} users", figures)
    )
    if evaluation.levelled:
        job.console.print(cold_table(pairs_of(evaluation), ground.newcomers.share))


def _has_cold_gate(job: Job) -> bool:
    """Whether the gate on *cold* can be measured, as the data set alone tells."""
    dataset = Dataset.load(job.folder("data"))
    if not dataset.histories or frozen_fault(job, len(dataset.items)):
        return False
    return len(parts_of(job, dataset).cold_cases.targets) >= MIN_COLD_CASES


def _check_cold(job: Job, ground: Ground) -> None:
    """The gate on *cold* alone: nothing else is measured unless it fails."""
    few = Evaluation(ground)
    for name, subject in ((FROZEN, ground.frozen), (TEACHER, ground.teacher)):
        if subject:
            few.level(name, subject.scores(subject.of_items(ground.tasks)))
    compared = compare_cold(TEACHER, few)
    if compared and compared.loses:
        require_cold(job, evaluate_teacher(ground), TEACHER)
