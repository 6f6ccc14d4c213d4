"""What is asked in the evaluation: cases, and the texts that they are asked with.

ids         the history as item ids; what the user took next is wanted
text        the same history given only as titles
query       no history: a few words that describe the wanted item, its attributes in any order; items without any are
            left out
noisy       the history as titles with typos, dropped and swapped words
cold        the history as item ids; an item that training never saw is wanted, which the export knows by its text alone
title       no history, as in all that follow: the exact title of an item
typos       the same title with one or two typing errors
tags        a tag of an item that is not in its text, or informative words of its text that are in no attribute
paraphrase  "something like TITLE"; what a user took after that item is wanted
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
from swiftrec.export.evaluate.query_tasks import MAKERS, MAX_ASKED, QueryTask, Source

TASKS = tuple(dict.fromkeys(("ids", "text", "query", "noisy", "cold", *MAKERS)))
SHARED_TASKS = ("ids", "cold")  # answered from item vectors and the ranker alone, so alike by every variant
READ_BY_TRAINING = ("title",)  # exact titles are ways to write an item
FIRST, IN_TEN, VIOLATING = "first", "in ten", "violating"
SHARES: Mapping[str, Sequence[str]] = MappingProxyType(
    {"title": (FIRST, IN_TEN), "typos": (FIRST, IN_TEN), "negation": (VIOLATING,)}
)
"""Task -> what is recorded of it beside NDCG@10: the share of cases whose wanted item is first, or among ten, and the
share of the ten that carry what the request excludes."""
_MAX_CASES = 2_000  # of each task; more would narrow the interval by less than the next data set moves it
_MAX_SCORES = 200_000_000  # cases times items of each task: 200 cases of a million items, some seconds
_MIN_CASES = 100
_NOISE_SEED = 20_000  # beyond the seeds of training, and not one that anything was chosen by


@dataclass(frozen=True, slots=True)
class Tasks:
    """Cases and texts.

    Args:
        warm: cases with a history that want an item which training saw.
        cold: cases that want one which it did not see.
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
        found = dict.fromkeys(("ids", "text", "noisy"), self.warm) | {"cold": self.cold}
        found |= {task: query.cases for task, query in self.queries.items()}
        return {task: found[task] for task in TASKS if task in found and len(found[task].targets)}


def present(tasks: Mapping[str, Mapping[str, object]]) -> list[str]:
    """The tasks that some subject of `tasks` (subject -> task -> figure) has, in the order of `TASKS`."""
    return [task for task in TASKS if any(task in row for row in tasks.values())]


def make_tasks(dataset: Dataset, texts: Texts, split: Split, seed: int) -> Tasks:
    """The same seed gives the same tasks."""
    rng = random.Random(seed + _NOISE_SEED)  # noqa: S311 (no secret)
    warm, titles, items = (
        some_cases(split.warm, len(dataset.items), seed),
        texts.variants[TextVariant.TITLE],
        dataset.items,
    )
    noisy = [corrupt(title, rng) for title in titles]
    size = min(MAX_ASKED, most_cases(len(items)))
    source = Source(items, titles, dataset.nouns, index_attributes(items), warm, size, seed + _NOISE_SEED)
    made = {task: make(source) for task, make in MAKERS.items()}
    absent = {task: why for task, why in made.items() if isinstance(why, str)}
    queries = {task: query for task, query in made.items() if isinstance(query, QueryTask)}
    kept = _without_training_texts(queries, texts)
    absent |= dict.fromkeys(queries.keys() - kept.keys(), "training reads every text that it could ask with")
    return Tasks(warm, some_cases(split.cold_cases, len(items), seed), titles, noisy, kept, absent)


def some_cases(cases: Cases, items: int, seed: int) -> Cases:
    """All cases, or as many drawn as may be ranked among so many items."""
    most = most_cases(items)
    if len(cases.targets) <= most:
        return cases
    return cases.take(np.sort(np.random.default_rng(seed).permutation(len(cases.targets))[:most]))


def most_cases(items: int) -> int:
    """How many cases may be ranked among so many items."""
    return min(_MAX_CASES, max(_MIN_CASES, _MAX_SCORES // items))


def _without_training_texts(queries: Mapping[str, QueryTask], texts: Texts) -> dict[str, QueryTask]:
    """The tasks without the requests whose very text training reads; a task of which nothing is left is left out."""
    asked = {text for task, query in queries.items() if task not in READ_BY_TRAINING for text in query.texts}
    read = {text for text in texts.all if text in asked}
    kept = {}
    for task, query in queries.items():
        rows = [n for n, text in enumerate(query.texts) if task in READ_BY_TRAINING or text not in read]
        if rows:
            kept[task] = query if len(rows) == len(query.texts) else query.take(rows)
    return kept
