"""What all recommenders are evaluated on: data, split, tasks, the teacher, the untouched encoder, items' popularity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from swiftrec.export.data.dataset import Dataset
from swiftrec.export.data.split import Split
from swiftrec.export.data.user_groups import quarters_of
from swiftrec.export.evaluate.beyond_accuracy import exposure
from swiftrec.export.evaluate.cold import NewItems
from swiftrec.export.evaluate.metrics import RankedCases, best, mean_interval
from swiftrec.export.evaluate.recommender import EvaluatedRecommender
from swiftrec.export.evaluate.tasks import FIRST, SHARES, VIOLATING, Tasks
from swiftrec.export.schema.quality import Lists, UserGroup
from swiftrec.export.schema.record import MeanInterval
from swiftrec.server.arrays import Mask, Vectors
from swiftrec.server.models.networks import UserSequence

_POPULARITY_WEIGHT = 0.1  # a cosine is at most 1; log(1 + popularity) of a popular item is about 6
EVENTS = "events"
_MIN_GROUP = 10  # cases; fewer have no interval worth printing


@dataclass(frozen=True)
class EvaluationContext:
    """One evaluation.

    `dataset` has the interactions that count (`export.data.repeats`), `counts` are each item's known events
    (`export.data.popularity`), and `texts` the unit vectors that diversity is measured by.
    `frozen`, and its vectors as `texts`, are missing if `frozen_fault` says why; then `texts` are the teacher's.
    """

    seed: int
    dataset: Dataset
    split: Split
    tasks: Tasks
    counts: NDArray[np.int64]
    texts: Vectors
    teacher: EvaluatedRecommender
    frozen: EvaluatedRecommender | None
    frozen_fault: str = ""

    def figures(self, results: Mapping[str, RankedCases]) -> dict[str, MeanInterval]:
        """NDCG@10 of each task."""
        return {task: mean_interval(ranked.ndcg, self.seed) for task, ranked in results.items()}

    def shares(self, results: Mapping[str, RankedCases]) -> dict[str, dict[str, MeanInterval]]:
        """Task -> name -> figure, as in `SHARES`, for the tasks that have results."""
        return {
            task: {name: self._share(task, ranked, name) for name in SHARES[task]}
            for task, ranked in results.items()
            if task in SHARES
        }

    def _share(self, task: str, ranked: RankedCases, name: str) -> MeanInterval:
        if name == VIOLATING:
            return mean_interval(ranked.violating(self.tasks.queries[task].violating), self.seed)
        return mean_interval(ranked.first if name == FIRST else ranked.recall, self.seed)

    def lists(self, task: str, ranked: RankedCases) -> Lists:
        """Everything else about one task's lists."""
        return Lists(
            task=task,
            recall=mean_interval(ranked.recall, self.seed),
            mrr=mean_interval(ranked.reciprocal, self.seed),
            exposure=exposure(ranked.lists, self.counts, self.texts),
        )

    @property
    def new_items(self) -> NewItems:
        """The items that training never saw, with the cases of *ids* and *cold*."""
        return NewItems(self.tasks.warm, self.tasks.cold, len(self.dataset.items), self.split.cold)

    @cached_property
    def members(self) -> dict[tuple[str, str], Mask]:
        """(attribute, group) of users -> which of the warm cases are theirs, of groups that have enough.

        Every data set has groups by `EVENTS`, the number of events before the target.
        """
        warm = self.tasks.warm
        active = [{EVENTS: group} for group in quarters_of([len(history) for history in warm.histories])]
        attributes = self.dataset.users
        by_case = [
            (attributes[u] if attributes else {}) | own for u, own in zip(warm.users.tolist(), active, strict=True)
        ]
        names = sorted({pair for groups in by_case for pair in groups.items()}, key=_by_number)
        inside = {(name, value): np.array([g.get(name) == value for g in by_case]) for name, value in names}
        return {pair: rows for pair, rows in inside.items() if rows.sum() >= _MIN_GROUP}

    def groups(self, ranked: RankedCases) -> list[UserGroup]:
        """NDCG@10 of each group of users on a warm task."""
        return [
            UserGroup(
                attribute=name, group=value, cases=int(rows.sum()), ndcg=mean_interval(ranked.ndcg[rows], self.seed)
            )
            for (name, value), rows in self.members.items()
        ]

    def probes(self, recommender: EvaluatedRecommender) -> MeanInterval | None:
        """Share of the top ten that carries the attribute of each probe; None if the data set has no probes."""
        probes = self.dataset.probes
        if not probes:
            return None
        requests = recommender.of_queries([probe.phrase for probe in probes])
        tops = [best(row) for row in recommender.scores({"probes": requests})["probes"](slice(None))]
        carried = [
            np.mean([probe.value in self.dataset.items[n].attributes.get(probe.attribute, []) for n in top])
            for probe, top in zip(probes, tops, strict=True)
        ]
        return mean_interval(np.array(carried), self.seed)


def _by_number(pair: tuple[str, str]) -> tuple[str, float, str]:
    """Groups in the order of the number that they begin with, the others by name."""
    name, value = pair
    first = value.split(" ")[0]
    return name, float(first) if first.isdecimal() else 0.0, value


def add_popularity(recommender: EvaluatedRecommender, counts: NDArray[np.int64]) -> EvaluatedRecommender:
    """Add .1 log(1 + popularity) to a recommender's scores: one more entry in each item's vector, 1 in each user's.

    Args:
        recommender: ranks by the cosine of vectors of d entries.
        counts: known events of each item, [items].
    """
    width = recommender.items.shape[1]
    popular = (_POPULARITY_WEIGHT * np.log1p(counts)).astype(np.float32)

    def rank(users: list[UserSequence]) -> Vectors:
        vectors = recommender.rank([UserSequence([v[:width] for v in user.vectors], user.kinds) for user in users])
        return np.concatenate([vectors, np.ones((len(vectors), 1), dtype=np.float32)], axis=1)

    return replace(recommender, rank=rank, items=np.concatenate([recommender.items, popular[:, None]], axis=1))
