"""Whether a bundle is better than simple baselines: its default variant against the best baseline of each task.

The comparison is paired: both answer the same cases, and the interval is that of the mean difference (bootstrap, 95 %).
A variant loses where the whole interval is below 0. Where its mean is lower or equal but the interval reaches 0, it is
not above the baseline, which may be chance.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from export.data.dataset import Dataset
from export.errors import DataError, GateError
from export.evaluate.compare import ORACLE, baselines
from export.evaluate.ground import Ground
from export.evaluate.metrics import Ranked, figure
from export.evaluate.record import TEACHER, Comparison
from export.evaluate.table import figures_table
from export.stage import Job

Answers = Mapping[str, Ranked]

_SHARED_TASKS = ("ids", "cold")  # answered from item vectors and the ranker alone, so alike by every variant


def compare_with_baselines(
    subject: str, answers: Mapping[str, Answers], names: Collection[str], seed: int
) -> list[Comparison]:
    """One comparison for each task of `subject` that a baseline has answers to.

    Args:
        subject: the recommender that is compared.
        answers: name -> task -> answers, those of `subject` among them.
        names: the baselines; one that knows the future (`ORACLE`) is none.
        seed: of the intervals.
    """
    found = []
    for task, own in answers[subject].items():
        others = {n: answers[n][task] for n in names if n != ORACLE and task in answers[n]}
        compared = [_compare(task, subject, own, name, other, seed) for name, other in others.items()]
        if compared:
            found.append(max(compared, key=lambda one: (one.loses, one.other)))
    return found


def require_baselines(
    job: Job, ground: Ground, answers: Mapping[str, Answers], comparisons: Sequence[Comparison]
) -> None:
    """With --require-baselines print the table and stop where a comparison is lost.

    Raises:
        GateError: names each task, the baseline, both figures and the difference.
    """
    lost = [str(one) for one in comparisons if one.loses]
    if not (job.settings.require_baselines and lost):
        return
    figures = {name: ground.figures(row) for name, row in answers.items()}
    title = f"NDCG@10, {job.settings.protocol}, {len(ground.tasks.warm.wanted)} users"
    job.console.print(figures_table(title, figures))
    raise GateError(
        f"--require-baselines: {'; '.join(lost)}: train longer (--preset full, --epochs) or with more interactions, or "
        "leave the flag out to write the bundle all the same"
    )


def require_teacher(job: Job, ground: Ground, answers: Mapping[str, Answers]) -> None:
    """The same as early as it is known: on *ids* and *cold* every variant answers as the teacher does.

    A small ranker may answer otherwise, so with one nothing is known yet.
    """
    if job.settings.has_small_ranker:
        return
    names = [name for name in answers if name != TEACHER]
    known = {task: ranked for task, ranked in answers[TEACHER].items() if task in _SHARED_TASKS}
    compared = compare_with_baselines(TEACHER, {**answers, TEACHER: known}, names, ground.seed)
    require_baselines(job, ground, answers, compared)


def require_interactions(job: Job) -> None:
    """With --require-baselines stop where there is nothing to compare by.

    Raises:
        DataError: the data set has no interactions.
    """
    if job.settings.require_baselines and not Dataset.load(job.folder("data")).histories:
        raise DataError("--require-baselines needs interactions to compare by, and there are none: leave the flag out")


def check(job: Job) -> None:
    """With --require-baselines stop before students are trained if the teacher already loses.

    Raises:
        DataError: see `require_interactions`.
        GateError: see `require_baselines`.
    """
    require_interactions(job)
    if not job.settings.require_baselines or job.settings.has_small_ranker:
        return
    ground = Ground.load(job)
    require_teacher(job, ground, baselines(ground) | {TEACHER: teacher_answers(ground)})


def teacher_answers(ground: Ground) -> dict[str, Ranked]:
    """The teacher's answers to every task."""
    return ground.teacher.answers(ground.tasks, ground.teacher.of_items(ground.tasks))


def _compare(task: str, subject: str, own: Ranked, baseline: str, other: Ranked, seed: int) -> Comparison:
    return Comparison(
        task=task,
        subject=subject,
        own=float(own.ndcg.mean()),
        baseline=baseline,
        other=float(other.ndcg.mean()),
        difference=figure(own.ndcg - other.ndcg, seed),
        cases=len(own.ranks),
    )
