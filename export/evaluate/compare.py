"""What is evaluated, subject by subject: the baselines, also under the other protocol, and what is added to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from swiftrec.export.data.split import COLD_SHARE, Cases, Protocol, split
from swiftrec.export.errors import DataError
from swiftrec.export.evaluate.baselines import WITHOUT_HISTORY, Baseline, fit_baselines, popularity
from swiftrec.export.evaluate.cold import Levelled, level
from swiftrec.export.evaluate.context import Ground, add_popularity
from swiftrec.export.evaluate.metrics import Ranked, Score, figure, rank
from swiftrec.export.evaluate.recommender import Aimed, Subject
from swiftrec.export.evaluate.record import FROZEN, FROZEN_POPULAR, RANKER_ALONE, TEXT_ALONE, OtherProtocol
from swiftrec.export.evaluate.tasks import SHARED_TASKS, some_cases
from swiftrec.server.catalogue.blend import Weights

ORACLE = "popularity, cold counted"
Answers = dict[str, Ranked]

_DISHONEST = {
    "time": "The teacher is not here: its one training saw events after the cut. `swiftrec export teacher "
    "--protocol time` trains one of its own.",
    "leave-one-out": "The teacher is not here: before the cut it was trained on some users' last items.",
}


@dataclass
class Evaluation:
    """Answers of every subject to every task, by name, and at the common share of new items (`export.evaluate.cold`).

    `behind` are the requests of histories as ids, by subject.
    """

    ground: Ground
    answers: dict[str, Answers] = field(default_factory=dict)
    levelled: dict[str, Levelled] = field(default_factory=dict)
    behind: dict[str, dict[str, Aimed]] = field(default_factory=dict)

    def add(self, name: str, subject: Subject, twin: str = "") -> None:
        """Evaluate `subject` under `name`; `twin` has the same ranker and catalogue, so it answers to ids alike."""
        tasks = self.ground.tasks
        self.behind[name] = self.behind[twin] if twin else subject.of_items(tasks)
        self.answers[name] = subject.answers(tasks, self.behind[name])
        if not twin:
            self.level(name, subject.scores(self.behind[name]))
        elif twin in self.levelled:
            self.levelled[name] = self.levelled[twin]

    def level(self, name: str, scores: Mapping[str, Score]) -> None:
        """Rank *ids* and *cold* at the common share of new items, if there are any."""
        if len(self.ground.tasks.cold.targets):
            self.levelled[name] = level(scores["ids"], scores["cold"], self.ground.newcomers)

    def add_baselines(self) -> None:
        """Everything that needs no training but counting, on every task that it can read.

        Popularity reads no history, and the untouched encoder reads everything. `ORACLE` counts the cold items' own
        events, which no recommender could know: without it popularity would be 0 there. What counts events alone cannot
        tell one new item from another, so it is not ranked at a common share of them.
        """
        ground, tasks, items = self.ground, self.ground.tasks, len(self.ground.dataset.items)
        for name, score in fit_baselines(ground.split.known, items, ground.split.order).items():
            asked = tasks.cases
            by_ids = {task: asked[task] for task in SHARED_TASKS if task in asked}
            self.answers[name] = _answers(score, asked if name in WITHOUT_HISTORY else by_ids, items)
        if len(tasks.cold.targets):
            told = popularity(ground.dataset.histories, items)
            self.answers[ORACLE] = {"cold": _rank(told, tasks.cold, items)}
        if ground.frozen:
            self.add(FROZEN, ground.frozen)
            self.add(FROZEN_POPULAR, add_popularity(ground.frozen, ground.counts))

    def add_parts(self) -> None:
        """The teacher's ranker without the other parts of a score, and its text match without the ranker."""
        teacher = self.ground.teacher
        if teacher.retrieval is None:
            return
        ranker = replace(teacher, retrieval=teacher.retrieval.only(Weights()))
        text = teacher.retrieval.only(Weights(ranker=0.0, query=1.0, events=1.0))
        self.add(RANKER_ALONE, ranker)
        self.add(TEXT_ALONE, replace(teacher, retrieval=text))


def other_protocol(ground: Ground, trained_by: Protocol) -> OtherProtocol:
    """The baselines under the protocol that the teacher was not trained for, fitted again on what it allows."""
    name: Protocol = "time" if trained_by == "leave-one-out" else "leave-one-out"
    try:
        share = COLD_SHARE if len(ground.split.cold) else 0.0
        parts = split(ground.dataset, name, cold_share=share, repeats=ground.split.repeats)
    except DataError as error:
        return OtherProtocol(protocol=name, cases=0, ndcg={}, remark=f"Not measured: {error}.")
    items = len(ground.dataset.items)
    cases = some_cases(parts.warm, items, ground.seed)
    ndcg = {
        baseline: figure(_rank(score, cases, items).ndcg, ground.seed)
        for baseline, score in fit_baselines(parts.known, items, parts.order).items()
    }
    return OtherProtocol(protocol=name, cases=len(cases.targets), ndcg=ndcg, remark=_DISHONEST[name])


def _answers(score: Baseline, asked: Mapping[str, Cases], items: int) -> Answers:
    """Answers to each task; tasks that share their cases have the same."""
    ranked: dict[int, Ranked] = {}
    for cases in asked.values():
        if id(cases) not in ranked:
            ranked[id(cases)] = _rank(score, cases, items)
    return {task: ranked[id(cases)] for task, cases in asked.items()}


def _rank(score: Baseline, cases: Cases, items: int) -> Ranked:
    return rank(lambda part: score(cases.histories[part]), cases, items)
