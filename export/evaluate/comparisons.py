"""A recommender compared with yardsticks: the best one of each task, fixed ones, and popularity for each group.

A yardstick is any other recommender with results on the same task: simple baselines, the untouched encoder, the
untouched encoder plus popularity. The comparison is paired: both rank the same cases, and the interval is that of the
mean difference (bootstrap, 95 %). A recommender loses if the whole interval is below 0. If its mean is lower or equal
but the interval reaches 0, it is not above the yardstick, which may be chance. On *cold* both show the same share of
new items (`export.evaluate.cold`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from swiftrec.export.evaluate.baselines import TRANSITIONS
from swiftrec.export.evaluate.cold import Adjusted
from swiftrec.export.evaluate.evaluation import ORACLE, Evaluation
from swiftrec.export.evaluate.metrics import RankedCases, mean_interval
from swiftrec.export.gates import MIN_COLD_CASES
from swiftrec.export.schema.comparison import ColdPair, Comparison
from swiftrec.export.schema.quality import FROZEN, FROZEN_POPULAR, RANKER_ALONE, TEACHER, TEXT_ALONE
from swiftrec.server.arrays import Floats, Mask

RecommenderResults = Mapping[str, RankedCases]
"""Task -> results of one recommender."""

NAMED = (("ids", TRANSITIONS), ("tags", FROZEN_POPULAR))
"""Task and yardstick: pairs that are compared whether or not the yardstick is the best of the task."""

_COLD = "cold"
_GROUP_TASKS = ("ids", "text")  # the tasks whose requests have a history


def compare_tasks(
    name: str,
    results: Mapping[str, RecommenderResults],
    yardsticks: Collection[str],
    seed: int,
    adjusted: Mapping[str, Adjusted] | None = None,
) -> list[Comparison]:
    """Compare a recommender with the best yardstick of each task; tasks without one are left out.

    Args:
        name: of the recommender.
        results: recommender -> task -> results; has those of `name`.
        yardsticks: names to compare with; `ORACLE`, which knows the future, is left out.
        seed: of the intervals.
        adjusted: recommender -> results at the common share of new items, used on *cold* if a yardstick has any.
    """
    adjusted = adjusted or {}
    compared = []
    for task, own in results[name].items():
        others = {other: results[other][task] for other in yardsticks if other != ORACLE and task in results[other]}
        level = {other: adjusted[other].cold for other in others if other in adjusted}
        is_level = task == _COLD and name in adjusted and bool(level)
        if is_level:
            own, others = adjusted[name].cold, level
        pairs = [
            _compare(task, (name, own.ndcg), (other, ranked.ndcg), seed, is_level=is_level)
            for other, ranked in others.items()
        ]
        if pairs:
            compared.append(max(pairs, key=lambda comparison: (comparison.loses, comparison.other)))
    return compared


def compare_named(name: str, evaluation: Evaluation) -> list[Comparison]:
    """Compare a recommender with the yardsticks of `NAMED` that have results on their task, and by `compare_cold`."""
    results, seed = evaluation.results, evaluation.context.seed
    compared = [
        _compare(task, (name, results[name][task].ndcg), (yardstick, results[yardstick][task].ndcg), seed)
        for task, yardstick in NAMED
        if task in results[name] and task in results.get(yardstick, {})
    ]
    cold = compare_cold(name, evaluation)
    return [*compared, cold] if cold else compared


def compare_cold(name: str, evaluation: Evaluation) -> Comparison | None:
    """Compare a recommender with the untouched encoder on *cold*; None if `cold_fault` says why it cannot be."""
    adjusted = evaluation.adjusted
    if cold_fault(evaluation) or not {name, FROZEN} <= adjusted.keys():
        return None
    own, other = ((each, adjusted[each].cold.ndcg) for each in (name, FROZEN))
    return _compare(_COLD, own, other, evaluation.context.seed, is_level=True)


def cold_fault(evaluation: Evaluation) -> str:
    """Why no recommender is compared with the untouched encoder on *cold*; empty if they are."""
    cases = len(evaluation.context.tasks.cold.targets)
    if cases < MIN_COLD_CASES:
        return f"{cases} cases have a new item as target, and at least {MIN_COLD_CASES} are needed"
    return "" if FROZEN in evaluation.adjusted else evaluation.context.frozen_fault


def cold_pairs(evaluation: Evaluation) -> dict[str, ColdPair]:
    """Recommender -> its results on new and on known items, unadjusted and at the common share of new items."""
    context, pairs = evaluation.context, {}
    for name, adjusted in evaluation.adjusted.items():
        row = evaluation.results[name]
        own, common = context.figures(row), context.figures({"ids": adjusted.ids, "cold": adjusted.cold})
        pairs[name] = ColdPair(
            share=adjusted.share,
            cold=common["cold"],
            ids=common["ids"],
            own_share=context.new_items.share_in(row["ids"]),
            own_cold=own["cold"],
            own_ids=own["ids"],
        )
    return pairs


def compare_groups(
    name: str,
    baseline: str,
    results: Mapping[str, RecommenderResults],
    members: Mapping[tuple[str, str], Mask],
    seed: int,
) -> list[Comparison]:
    """Compare a recommender with `baseline` within each group of users, on the tasks whose requests have a history.

    Args:
        name: of the recommender.
        baseline: name of the other one.
        results: recommender -> task -> results.
        members: (attribute, group) -> which cases of these tasks belong to the group.
        seed: of the intervals.
    """
    own, other = results[name], results[baseline]
    return [
        _compare(
            task,
            (name, own[task].ndcg[rows]),
            (baseline, other[task].ndcg[rows]),
            seed,
            group=f"{attribute} {group}",
        )
        for task in _GROUP_TASKS
        if task in own and task in other
        for (attribute, group), rows in members.items()
    ]


def compare_best_baseline(results: Mapping[str, RecommenderResults], seed: int) -> Comparison:
    """Compare the teacher with the best baseline on *ids*; parts of the teacher's own score do not count."""
    parts = (RANKER_ALONE, TEXT_ALONE)
    ids = {name: {"ids": row["ids"]} for name, row in results.items() if "ids" in row and name not in parts}
    (comparison,) = compare_tasks(TEACHER, ids, ids.keys() - {TEACHER}, seed)
    return comparison


def _compare(
    task: str,
    own: tuple[str, Floats],
    other: tuple[str, Floats],
    seed: int,
    *,
    is_level: bool = False,
    group: str = "",
) -> Comparison:
    """Two recommenders, each with its name and its NDCG@10 case by case."""
    (name, values), (baseline, other_values) = own, other
    return Comparison(
        task=task,
        subject=name,
        own=float(values.mean()),
        baseline=baseline,
        other=float(other_values.mean()),
        difference=mean_interval(values - other_values, seed),
        cases=len(values),
        group=group,
        is_level=is_level,
    )
