"""Queries for the fit of the weights, in wordings that neither training nor the evaluation uses.

The ranker has overfitted to the texts of the training, and would get all the weight on them. So titles are mistyped or
shortened, attributes have other templates, and a text that training reads is replaced by another query.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from swiftrec.export.data.attributes import ItemsByValue, index_attributes
from swiftrec.export.data.corruption import corrupt
from swiftrec.export.data.dataset import DatasetItem
from swiftrec.export.data.templates import VALIDATION, spoken_title
from swiftrec.export.data.text_variants import Texts

_SEED = 15_000  # other than the seeds of training and evaluation
_TRIES = 3  # queries for one item
_TITLE_SHARE = 0.5  # of the queries for items with attributes


class QueryWriter:
    """Writes queries for items.

    Args:
        items: of the catalogue.
        nouns: words for an item.
        seed: of the draws.
    """

    def __init__(self, items: Sequence[DatasetItem], nouns: Sequence[str], seed: int) -> None:
        self._items, self._nouns = items, nouns
        self._rng = random.Random(seed + _SEED)  # noqa: S311 (no secret)
        self._attributes = index_attributes(items)
        self._values = _values_of(self._attributes)

    def write(self, targets: Sequence[int], texts: Texts) -> list[str]:
        """A query for each target that is none of `texts`; the last try if all tries are."""
        tries = [[self._write_one(item) for _ in range(_TRIES)] for item in targets]
        written = {query for queries in tries for query in queries}
        known = {text for text in texts.all if text in written}
        return [next((query for query in queries if query not in known), queries[-1]) for queries in tries]

    def _write_one(self, item: int) -> str:
        values = self._values.get(item, [])
        if not values or self._rng.random() < _TITLE_SHARE:
            return self._by_title(self._items[item].title)
        return self._by_values(values)

    def _by_title(self, title: str) -> str:
        """The title mistyped, or neighbouring words of it."""
        spoken = spoken_title(title)
        if self._rng.random() < 0.5:
            return corrupt(self._rng.choice((title, spoken)), self._rng)
        words = spoken.split()
        length = self._rng.randint(1, len(words))
        start = self._rng.randint(0, len(words) - length)
        return " ".join(words[start : start + length])

    def _by_values(self, values: Sequence[str]) -> str:
        """One to three of the item's attribute values, or one value and the negation of another."""
        others = [value for value in self._attributes if value not in values]
        kind = self._rng.choice(("single", "pair", "triple", "negation"))
        if kind == "negation" and others:
            a, b = self._rng.choice(values), self._rng.choice(others)
            return self._rng.choice(VALIDATION.negation).format(a=a, b=b)
        drawn = self._rng.sample(values, min(len(values), {"pair": 2, "triple": 3}.get(kind, 1)))
        templates = (VALIDATION.single, VALIDATION.pair, VALIDATION.triple)[len(drawn) - 1]
        named = dict(zip("abc", drawn, strict=False))
        return self._rng.choice(templates).format(**named, noun=self._rng.choice(self._nouns))


def _values_of(attributes: ItemsByValue) -> dict[int, list[str]]:
    """Item -> its values that a query may name."""
    values: dict[int, list[str]] = {}
    for value, item in _pairs(attributes):
        values.setdefault(item, []).append(value)
    return values


def _pairs(attributes: ItemsByValue) -> Iterator[tuple[str, int]]:
    return ((value, item) for value, items in attributes.items() for item in items.tolist())
