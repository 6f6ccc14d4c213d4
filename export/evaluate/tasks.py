"""The tasks of the evaluation: their cases, and the texts of their requests.

ids         the history as item ids; the target is what the user interacted with next
text        the same history given only as titles
query       no history: a few words that describe the target, its attributes in any order; targets without any are left
            out
noisy       the history as titles with typos, dropped and swapped words
cold        the history as item ids; the target is an item that training never saw, known by its text alone
title       no history, as in all that follow: the exact title of an item
typos       the same title with one or two typing errors
tags        a tag of an item that is not in its text, or informative words of its text that are in no attribute
paraphrase  "something like TITLE"; the target is what a user interacted with after that item
conditions  two or three attribute values at once, worded as training never read it
negation    one attribute value, and not another one
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from swiftrec.export.data.attributes import index_attributes
from swiftrec.export.data.corruption import corrupt
from swiftrec.export.data.dataset import Dataset
from swiftrec.export.data.split import Cases, Split
from swiftrec.export.data.text_variants import Texts, TextVariant
from swiftrec.export.evaluate.query_tasks import MAKERS, MAX_CASES, QuerySource, QueryTask

TASKS = tuple(dict.fromkeys(("ids", "text", "query", "noisy", "cold", *MAKERS)))
SHARED_TASKS = ("ids", "cold")  # need item vectors and the ranker only, so every variant has the same results
READ_BY_TRAINING = ("title",)  # an exact title is a text variant of the item
FIRST, IN_TEN, VIOLATING = "first", "in ten", "violating"
SHARES: Mapping[str, Sequence[str]] = MappingProxyType(
    {"title": (FIRST, IN_TEN), "typos": (FIRST, IN_TEN), "negation": (VIOLATING,)}
)
"""Task -> what is recorded of it beside NDCG@10: the share of cases whose target is first, or among ten, and the
share of the ten that carry what the request excludes."""
_MAX_CASES = 2_000  # of each task; more would narrow the interval by less than the next data set moves it
_MAX_SCORES = 200_000_000  # cases times items of each task: 200 cases of a million items, some seconds
_MIN_CASES = 100
_NOISE_SEED = 20_000  # beyond the seeds of training, and no seed that a decision was based on


@dataclass(frozen=True, slots=True)
class Tasks:
    """Cases and texts.

    Args:
        warm: cases with a history whose target training saw.
        cold: cases whose target it did not see.
        titles: the title of each item.
        noisy: the same with noise.
        queries: task -> its requests without a history, those that the data set can have.
        absent: task -> why the data set cannot have it.
    """

    warm: Cases
    cold: Cases
    titles: Sequence[str]
    noisy: list[str]
    queries: Mapping[str, QueryTask]
    absent: Mapping[str, str] = field(default_factory=dict)

    @property
    def cases(self) -> dict[str, Cases]:
        """Task -> its cases, in the order of `TASKS`; those without cases are left out."""
        by_task = dict.fromkeys(("ids", "text", "noisy"), self.warm) | {"cold": self.cold}
        by_task |= {task: query.cases for task, query in self.queries.items()}
        return {task: by_task[task] for task in TASKS if task in by_task and len(by_task[task].targets)}


def present(tasks: Mapping[str, Mapping[str, object]]) -> list[str]:
    """The tasks that a recommender of `tasks` (recommender -> task -> figure) has, in the order of `TASKS`."""
    return [task for task in TASKS if any(task in row for row in tasks.values())]


def make_tasks(dataset: Dataset, texts: Texts, split: Split, seed: int) -> Tasks:
    """Make the tasks of a data set; the same seed gives the same tasks."""
    rng = random.Random(seed + _NOISE_SEED)  # noqa: S311 (no secret)
    warm, titles, items = (
        sample_cases(split.warm, len(dataset.items), seed),
        texts.variants[TextVariant.TITLE],
        dataset.items,
    )
    noisy = [corrupt(title, rng) for title in titles]
    size = min(MAX_CASES, max_cases(len(items)))
    source = QuerySource(items, titles, dataset.nouns, index_attributes(items), warm, size, seed + _NOISE_SEED)
    made = {task: make(source) for task, make in MAKERS.items()}
    absent = {task: why for task, why in made.items() if isinstance(why, str)}
    queries = {task: query for task, query in made.items() if isinstance(query, QueryTask)}
    kept = _without_training_texts(queries, texts)
    absent |= dict.fromkeys(queries.keys() - kept.keys(), "training reads every text that its requests could have")
    return Tasks(warm, sample_cases(split.cold_cases, len(items), seed), titles, noisy, kept, absent)


def sample_cases(cases: Cases, items: int, seed: int) -> Cases:
    """All cases, or a sample of the size that a catalogue of `items` allows."""
    limit = max_cases(items)
    if len(cases.targets) <= limit:
        return cases
    return cases.take(np.sort(np.random.default_rng(seed).permutation(len(cases.targets))[:limit]))


def max_cases(items: int) -> int:
    """How many cases are ranked in a catalogue of `items`."""
    return min(_MAX_CASES, max(_MIN_CASES, _MAX_SCORES // items))


def _without_training_texts(queries: Mapping[str, QueryTask], texts: Texts) -> dict[str, QueryTask]:
    """The tasks without the requests whose text training reads; tasks without any request left are dropped."""
    requested = {text for task, query in queries.items() if task not in READ_BY_TRAINING for text in query.texts}
    read = {text for text in texts.all if text in requested}
    kept = {}
    for task, query in queries.items():
        rows = [n for n, text in enumerate(query.texts) if task in READ_BY_TRAINING or text not in read]
        if rows:
            kept[task] = query if len(rows) == len(query.texts) else query.take(rows)
    return kept
