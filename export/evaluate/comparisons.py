"""A recommender beside what could be had instead: the best yardstick of each task, and popularity for each group.

A yardstick is any other subject that answers the same task: simple baselines, the untouched encoder, the untouched
encoder plus popularity. The comparison is paired: both answer the same cases, and the interval is that of the mean
difference (bootstrap, 95 %). A recommender loses where the whole interval is below 0. Where its mean is lower or equal
but the interval reaches 0, it is not above the yardstick, which may be chance. On *cold* both show the same share of
new items (`export.evaluate.cold`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from swiftrec.export.evaluate.cold import Levelled
from swiftrec.export.evaluate.compare import ORACLE, Evaluation
from swiftrec.export.evaluate.metrics import Ranked, Values, figure
from swiftrec.export.evaluate.record import FROZEN, NAMED, ColdPair, Comparison
from swiftrec.export.quality import MIN_COLD_CASES

Answers = Mapping[str, Ranked]

_COLD = "cold"
_GROUP_TASKS = ("ids", "text")  # the tasks that ask by a user's history


def compare_tasks(
    subject: str,
    answers: Mapping[str, Answers],
    names: Collection[str],
    seed: int,
    levelled: Mapping[str, Levelled] | None = None,
) -> list[Comparison]:
    """Compare `subject` with the best yardstick of each task; tasks without one are left out.

    Args:
        subject: the recommender that is compared.
        answers: name -> task -> answers, those of `subject` among them.
        names: the yardsticks; one that knows the future (`ORACLE`) is none.
        seed: of the intervals.
        levelled: name -> answers at the common share of new items, by which *cold* is compared if a yardstick has any.
    """
    levelled = levelled or {}
    found = []
    for task, own in answers[subject].items():
        others = {name: answers[name][task] for name in names if name != ORACLE and task in answers[name]}
        level = {name: levelled[name].cold for name in others if name in levelled}
        is_level = task == _COLD and subject in levelled and bool(level)
        if is_level:
            own, others = levelled[subject].cold, level
        compared = [
            _compare(task, (subject, own.ndcg), (name, other.ndcg), seed, is_level=is_level)
            for name, other in others.items()
        ]
        if compared:
            found.append(max(compared, key=lambda comparison: (comparison.loses, comparison.other)))
    return found


def compare_named(subject: str, evaluation: Evaluation) -> list[Comparison]:
    """Compare `subject` with the yardsticks of `NAMED` that answer their task, and by `compare_cold`."""
    answers, seed = evaluation.answers, evaluation.ground.seed
    found = [
        _compare(task, (subject, answers[subject][task].ndcg), (name, answers[name][task].ndcg), seed)
        for task, name in NAMED
        if task in answers[subject] and task in answers.get(name, {})
    ]
    cold = compare_cold(subject, evaluation)
    return [*found, cold] if cold else found


def compare_cold(subject: str, evaluation: Evaluation) -> Comparison | None:
    """Compare `subject` with the untouched encoder on *cold*; None where `cold_fault` says why it cannot be."""
    levelled, ground = evaluation.levelled, evaluation.ground
    if cold_fault(evaluation) or not {subject, FROZEN} <= levelled.keys():
        return None
    own, other = ((name, levelled[name].cold.ndcg) for name in (subject, FROZEN))
    return _compare(_COLD, own, other, ground.seed, is_level=True)


def cold_fault(evaluation: Evaluation) -> str:
    """Why nothing is compared with the untouched encoder on *cold*; empty if it is."""
    cases = len(evaluation.ground.tasks.cold.targets)
    if cases < MIN_COLD_CASES:
        return f"{cases} cases want a new item, and fewer than {MIN_COLD_CASES} decide nothing"
    return "" if FROZEN in evaluation.levelled else evaluation.ground.frozen_fault


def pairs_of(evaluation: Evaluation) -> dict[str, ColdPair]:
    """What each subject finds of new items and of known ones, as it ranks and at the common share of new items."""
    ground, found = evaluation.ground, {}
    for name, levelled in evaluation.levelled.items():
        row = evaluation.answers[name]
        own, common = ground.figures(row), ground.figures({"ids": levelled.ids, "cold": levelled.cold})
        found[name] = ColdPair(
            share=levelled.share,
            cold=common["cold"],
            ids=common["ids"],
            own_share=ground.newcomers.shown(row["ids"]),
            own_cold=own["cold"],
            own_ids=own["ids"],
        )
    return found


def compare_groups(
    subject: str,
    baseline: str,
    answers: Mapping[str, Answers],
    members: Mapping[tuple[str, str], NDArray[np.bool_]],
    seed: int,
) -> list[Comparison]:
    """Compare `subject` with `baseline` within each group of users, on the tasks that ask by a history.

    Args:
        subject: the recommender that is compared.
        baseline: what it is compared with.
        answers: name -> task -> answers.
        members: (attribute, group) -> which cases of these tasks are the group's.
        seed: of the intervals.
    """
    own, other = answers[subject], answers[baseline]
    return [
        _compare(
            task,
            (subject, own[task].ndcg[rows]),
            (baseline, other[task].ndcg[rows]),
            seed,
            group=f"{attribute} {group}",
        )
        for task in _GROUP_TASKS
        if task in own and task in other
        for (attribute, group), rows in members.items()
    ]


def _compare(
    task: str,
    own: tuple[str, Values],
    other: tuple[str, Values],
    seed: int,
    *,
    is_level: bool = False,
    group: str = "",
) -> Comparison:
    """Two subjects, each a name and its NDCG@10 case by case."""
    (subject, values), (baseline, theirs) = own, other
    return Comparison(
        task=task,
        subject=subject,
        own=float(values.mean()),
        baseline=baseline,
        other=float(theirs.mean()),
        difference=figure(values - theirs, seed),
        cases=len(values),
        group=group,
        is_level=is_level,
    )
