"""The texts that training reads: four ways to write each item, and short query phrases with the items they fit."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from export.data.dataset import Dataset, Item

_SINGLE = ["{a}", "{a} {noun}s", "the best {a} {noun}s", "show me {a} {noun}s", "some {a}"]
_PAIR = ["{a} and {b}", "{a} {b} {noun}s"]
_MAX_VALUES = 60  # of one attribute; beyond it a value says too little to be asked for
_MIN_PAIR_ITEMS = 3
_MAX_PHRASES = 2_000


@dataclass(frozen=True, slots=True)
class Phrase:
    """A query in words and the positions of the items that it fits."""

    text: str
    items: list[int]


@dataclass(frozen=True, slots=True)
class Texts:
    """`variants[v][i]` is way `v` to write item `i` (0 the full text, 1 the title, 2 title words, 3 words dropped)."""

    variants: list[list[str]]
    phrases: list[Phrase]

    @property
    def all(self) -> list[str]:
        """Every text, variants first (row v * items + i), then phrases."""
        return [*itertools.chain.from_iterable(self.variants), *(p.text for p in self.phrases)]

    def save(self, folder: Path) -> None:
        """Write `texts.json`."""
        (folder / "texts.json").write_text(json.dumps(asdict(self), ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Texts:
        """Read what `save` wrote."""
        raw = json.loads((folder / "texts.json").read_text(encoding="utf-8"))
        return cls(raw["variants"], [Phrase(**p) for p in raw["phrases"]])


def write_texts(dataset: Dataset, seed: int) -> Texts:
    """Make the texts of a data set; the same seed gives the same texts."""
    rng = random.Random(seed)  # noqa: S311 (no secret)
    items = dataset.items
    variants = [
        [item.text for item in items],
        [item.title for item in items],
        [_title_words(item, rng) for item in items],
        [_dropped_words(item.text, rng) for item in items],
    ]
    phrases = list(_attribute_phrases(dataset))
    if len(phrases) > _MAX_PHRASES:
        phrases = rng.sample(phrases, _MAX_PHRASES)
    return Texts(variants, phrases)


def _title_words(item: Item, rng: random.Random) -> str:
    """Some neighbouring words of the title, in lower case, as one types them into a search box."""
    words = item.title.lower().split()
    length = rng.randint(1, len(words))
    start = rng.randint(0, len(words) - length)
    return " ".join(words[start : start + length])


def _dropped_words(text: str, rng: random.Random) -> str:
    words = text.split()
    kept = [word for word in words if rng.random() > 0.25]
    return " ".join(kept or words)


def _attribute_phrases(dataset: Dataset) -> Iterator[Phrase]:
    carriers = _carriers(dataset.items)
    noun = itertools.cycle(dataset.nouns)
    for value, items in carriers.items():
        for template in _SINGLE:
            yield Phrase(template.format(a=value, noun=next(noun)), sorted(items))
    for (a, of_a), (b, of_b) in itertools.permutations(carriers.items(), 2):
        both = of_a & of_b
        if len(both) >= _MIN_PAIR_ITEMS:
            for template in _PAIR:
                yield Phrase(template.format(a=a, b=b, noun=next(noun)), sorted(both))


def _carriers(items: list[Item]) -> dict[str, set[int]]:
    """Attribute value in lower case -> positions of the items that carry it."""
    by_name: dict[str, dict[str, set[int]]] = {}
    for n, item in enumerate(items):
        for name, values in item.attributes.items():
            for value in values:
                by_name.setdefault(name, {}).setdefault(value.lower(), set()).add(n)
    carriers: dict[str, set[int]] = {}
    for values_of in by_name.values():
        if len(values_of) <= _MAX_VALUES:
            for value, found in values_of.items():
                carriers[value] = carriers.get(value, set()) | found
    return carriers
