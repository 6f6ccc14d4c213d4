"""Queries that weights are fitted on, in wordings that neither training nor the evaluation uses.

What training has read the ranker knows by heart, and it would get all the weight. So titles come mistyped or in part,
and attributes in templates of their own; a text that training reads is asked for in another way.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from swiftrec.export.data.attributes import AttributeIndex, index_attributes
from swiftrec.export.data.corruption import corrupt
from swiftrec.export.data.dataset import Item
from swiftrec.export.data.templates import VALIDATION, spoken_title
from swiftrec.export.data.text_variants import Texts

_SEED = 15_000  # beyond the seeds of training's noise, and not the evaluation's
_TRIES = 3  # ways to ask for one item
_TITLES = 0.5  # share of the queries that ask by the title, where an item has attributes


class Queries:
    """Asks for items.

    Args:
        items: of the catalogue.
        nouns: words for an item.
        seed: of the draws.
    """

    def __init__(self, items: Sequence[Item], nouns: Sequence[str], seed: int) -> None:
        self._items, self._nouns = items, nouns
        self._rng = random.Random(seed + _SEED)  # noqa: S311 (no secret)
        self._carriers = index_attributes(items)
        self._values = _values_of(self._carriers)

    def ask(self, wanted: Sequence[int], texts: Texts) -> list[str]:
        """A query for each wanted item that training does not read; the last try where it reads all of them."""
        tries = [[self._ask(item) for _ in range(_TRIES)] for item in wanted]
        asked = {text for some in tries for text in some}
        read = {text for text in texts.all if text in asked}
        return [next((text for text in some if text not in read), some[-1]) for some in tries]

    def _ask(self, item: int) -> str:
        values = self._values.get(item, [])
        if not values or self._rng.random() < _TITLES:
            return self._by_title(self._items[item].title)
        return self._by_values(values)

    def _by_title(self, title: str) -> str:
        """Mistyped, or some neighbouring words of it."""
        spoken = spoken_title(title)
        if self._rng.random() < 0.5:
            return corrupt(self._rng.choice((title, spoken)), self._rng)
        words = spoken.split()
        length = self._rng.randint(1, len(words))
        start = self._rng.randint(0, len(words) - length)
        return " ".join(words[start : start + length])

    def _by_values(self, values: Sequence[str]) -> str:
        """By one to three of the item's attribute values, or by one and one that it has not."""
        others = [value for value in self._carriers if value not in values]
        kind = self._rng.choice(("single", "pair", "triple", "negation"))
        if kind == "negation" and others:
            a, b = self._rng.choice(values), self._rng.choice(others)
            return self._rng.choice(VALIDATION.negation).format(a=a, b=b)
        drawn = self._rng.sample(values, min(len(values), {"pair": 2, "triple": 3}.get(kind, 1)))
        templates = (VALIDATION.single, VALIDATION.pair, VALIDATION.triple)[len(drawn) - 1]
        named = dict(zip("abc", drawn, strict=False))
        return self._rng.choice(templates).format(**named, noun=self._rng.choice(self._nouns))


def _values_of(carriers: AttributeIndex) -> dict[int, list[str]]:
    """Item -> its values that may be asked for."""
    found: dict[int, list[str]] = {}
    for value, item in _pairs(carriers):
        found.setdefault(item, []).append(value)
    return found


def _pairs(carriers: AttributeIndex) -> Iterator[tuple[str, int]]:
    return ((value, item) for value, items in carriers.items() for item in items.tolist())
