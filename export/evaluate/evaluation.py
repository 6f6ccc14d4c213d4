"""The results of every recommender on every task: baselines, parts of the teacher's score, the teacher, variants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from swiftrec.export.data.split import COLD_SHARE, Cases, Protocol, split
from swiftrec.export.errors import DataError
from swiftrec.export.evaluate.baselines import WITHOUT_HISTORY, Baseline, fit_baselines, popularity
from swiftrec.export.evaluate.cold import Adjusted, adjust
from swiftrec.export.evaluate.context import EvaluationContext, add_popularity
from swiftrec.export.evaluate.metrics import RankedCases, Score, mean_interval, rank
from swiftrec.export.evaluate.recommender import EvaluatedRecommender
from swiftrec.export.evaluate.requests import RequestVectors
from swiftrec.export.evaluate.tasks import SHARED_TASKS, sample_cases
from swiftrec.export.schema.comparison import OtherProtocol
from swiftrec.export.schema.quality import FROZEN, FROZEN_POPULAR, RANKER_ALONE, TEACHER, TEXT_ALONE
from swiftrec.server.catalogue.blend import Weights

ORACLE = "popularity, cold counted"
TaskResults = dict[str, RankedCases]
"""Task -> results."""

_WHY_NO_TEACHER = {
    "time": "The teacher is not compared here: its training saw events after the cut. `swiftrec export teacher "
    "--protocol time` trains one for this protocol.",
    "leave-one-out": "The teacher is not compared here: before the cut it was trained on the last items of some users.",
}


@dataclass
class Evaluation:
    """Results by recommender.

    Args:
        context: what all recommenders are evaluated on.
        results: recommender -> task -> results.
        adjusted: recommender -> results at the common share of new items (`export.evaluate.cold`).
        id_requests: recommender -> task -> vectors of the requests with histories as ids.
    """

    context: EvaluationContext
    results: dict[str, TaskResults] = field(default_factory=dict)
    adjusted: dict[str, Adjusted] = field(default_factory=dict)
    id_requests: dict[str, dict[str, RequestVectors]] = field(default_factory=dict)

    def add(self, name: str, recommender: EvaluatedRecommender, twin: str = "") -> None:
        """Evaluate a recommender.

        Args:
            name: that it gets in the results.
            recommender: is evaluated on every task.
            twin: one that was added before and has the same ranker and catalogue, so that its results on ids hold.
        """
        tasks = self.context.tasks
        self.id_requests[name] = self.id_requests[twin] if twin else recommender.of_items(tasks)
        self.results[name] = recommender.rank_tasks(tasks, self.id_requests[name])
        if not twin:
            self.adjust(name, recommender.scores(self.id_requests[name]))
        elif twin in self.adjusted:
            self.adjusted[name] = self.adjusted[twin]

    def adjust(self, name: str, scores: Mapping[str, Score]) -> None:
        """Rank *ids* and *cold* at the common share of new items, if there are any."""
        if len(self.context.tasks.cold.targets):
            self.adjusted[name] = adjust(scores["ids"], scores["cold"], self.context.new_items)

    def add_baselines(self) -> None:
        """Add everything that needs no training but counting, on every task that it can read.

        Popularity reads no history, and the untouched encoder reads everything. `ORACLE` counts the cold items' own
        events, which no recommender could know; without it popularity would be 0 on *cold*. Counting baselines cannot
        tell one new item from another, so they have no results at a common share of new items.
        """
        context, tasks, items = self.context, self.context.tasks, len(self.context.dataset.items)
        for name, score in fit_baselines(context.split.known, items, context.split.order).items():
            cases = tasks.cases
            by_ids = {task: cases[task] for task in SHARED_TASKS if task in cases}
            self.results[name] = _rank_tasks(score, cases if name in WITHOUT_HISTORY else by_ids, items)
        if len(tasks.cold.targets):
            counted = popularity(context.dataset.histories, items)
            self.results[ORACLE] = {"cold": _rank(counted, tasks.cold, items)}
        if context.frozen:
            self.add(FROZEN, context.frozen)
            self.add(FROZEN_POPULAR, add_popularity(context.frozen, context.counts))

    def add_parts(self) -> None:
        """Add the teacher's ranker without the other parts of a score, and its text match without the ranker."""
        teacher = self.context.teacher
        if teacher.retrieval is None:
            return
        text = teacher.retrieval.only(Weights(ranker=0.0, query=1.0, events=1.0))
        self.add(RANKER_ALONE, replace(teacher, retrieval=teacher.retrieval.only(Weights())))
        self.add(TEXT_ALONE, replace(teacher, retrieval=text))


def evaluate_teacher(context: EvaluationContext) -> Evaluation:
    """The baselines, the parts of the teacher's score, and the teacher on every task."""
    evaluation = Evaluation(context)
    evaluation.add_baselines()
    evaluation.add_parts()
    evaluation.add(TEACHER, context.teacher)
    return evaluation


def other_protocol(context: EvaluationContext, trained_by: Protocol) -> OtherProtocol:
    """The baselines under the protocol that the teacher was not trained for, fitted again on its training events."""
    name: Protocol = "time" if trained_by == "leave-one-out" else "leave-one-out"
    try:
        share = COLD_SHARE if len(context.split.cold) else 0.0
        parts = split(context.dataset, name, cold_share=share, repeats=context.split.repeats)
    except DataError as error:
        return OtherProtocol(protocol=name, cases=0, ndcg={}, remark=f"Not measured: {error}.")
    items = len(context.dataset.items)
    cases = sample_cases(parts.warm, items, context.seed)
    ndcg = {
        baseline: mean_interval(_rank(score, cases, items).ndcg, context.seed)
        for baseline, score in fit_baselines(parts.known, items, parts.order).items()
    }
    return OtherProtocol(protocol=name, cases=len(cases.targets), ndcg=ndcg, remark=_WHY_NO_TEACHER[name])


def _rank_tasks(score: Baseline, tasks: Mapping[str, Cases], items: int) -> TaskResults:
    """Results of a baseline on each task; tasks that share their cases share the results."""
    by_cases: dict[int, RankedCases] = {}
    for cases in tasks.values():
        if id(cases) not in by_cases:
            by_cases[id(cases)] = _rank(score, cases, items)
    return {task: by_cases[id(cases)] for task, cases in tasks.items()}


def _rank(score: Baseline, cases: Cases, items: int) -> RankedCases:
    return rank(lambda part: score(cases.histories[part]), cases, items)
