"""The five tasks, as cases and the texts that they are asked with.

ids    the history as item ids; what the user took next is wanted
text   the same history given only as titles
noisy  the same titles with typos, dropped and swapped words
query  no history: a few words that describe the wanted item, its attributes in any order
cold   the history as item ids; an item that training never saw is wanted, which the export knows by its text alone
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from export.data.dataset import Dataset, Item
from export.data.noise import corrupt
from export.data.phrases import MAX_VALUES, Texts
from export.data.split import Cases, Split

TASKS = ("ids", "text", "query", "noisy", "cold")
_MAX_CASES = 2_000  # of each task; more would narrow the interval by less than the next data set moves it
_MAX_SCORES = 200_000_000  # cases times items of each task: 200 cases of a million items, some seconds
_MIN_CASES = 100
_NOISE_SEED = 20_000  # beyond the seeds of training, and not one that anything was chosen by


@dataclass(frozen=True, slots=True)
class Tasks:
    """Cases and texts. `titles` and `noisy` have an entry for each item, `queries` one for each warm case."""

    warm: Cases
    cold: Cases
    titles: Sequence[str]
    noisy: list[str]
    queries: list[str]


def make_tasks(dataset: Dataset, texts: Texts, split: Split, seed: int) -> Tasks:
    """The same seed gives the same tasks."""
    rng = random.Random(seed + _NOISE_SEED)  # noqa: S311 (no secret)
    warm = some_cases(split.warm, len(dataset.items), seed)
    noun = dataset.nouns[0]
    is_usable = _usable(dataset.items)
    return Tasks(
        warm=warm,
        cold=some_cases(split.unseen, len(dataset.items), seed),
        titles=texts.variants[1],
        noisy=[corrupt(title, rng) for title in texts.variants[1]],
        queries=[_description(dataset.items[n], noun, is_usable, rng) for n in warm.wanted.tolist()],
    )


def some_cases(cases: Cases, items: int, seed: int) -> Cases:
    """All cases, or as many drawn as may be ranked among so many items."""
    most = min(_MAX_CASES, max(_MIN_CASES, _MAX_SCORES // items))
    if len(cases.wanted) <= most:
        return cases
    return cases.take(np.sort(np.random.default_rng(seed).permutation(len(cases.wanted))[:most]))


def _usable(items: Sequence[Item]) -> Callable[[str], bool]:
    """Whether an attribute has few enough values to be asked for."""
    values: dict[str, set[str]] = {}
    for item in items:
        for name, found in item.attributes.items():
            values.setdefault(name, set()).update(found)
    return lambda name: len(values[name]) <= MAX_VALUES


def _description(item: Item, noun: str, is_usable: Callable[[str], bool], rng: random.Random) -> str:
    """What somebody types who knows the kind but not the name: "thriller crime 1990s film"."""
    values = [v.lower() for name, found in item.attributes.items() if is_usable(name) for v in found]
    rng.shuffle(values)
    return " ".join([*values, noun]) if values else item.title.lower()
