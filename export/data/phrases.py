"""The texts that training reads: four ways to write each item, and short query phrases with the items they fit."""

from __future__ import annotations

import itertools
import json
import random
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.data.dataset import Dataset, Item

_SINGLE = ["{a}", "{a} {noun}s", "the best {a} {noun}s", "show me {a} {noun}s", "some {a}"]
_PAIR = ["{a} and {b}", "{a} {b} {noun}s"]
MAX_VALUES = 60  # of one attribute; beyond it a value says too little to be asked for
_MIN_PAIR_ITEMS = 3
_MAX_PHRASES = 2_000
_HELD = 10  # of so many texts of users one is held back
_MIN_UNSEEN, _MAX_UNSEEN = 50, 2_000

Carriers = dict[str, NDArray[np.int32]]


@dataclass(frozen=True, slots=True)
class Phrase:
    """A query in words and the positions of the items that it fits."""

    text: str
    items: list[int]


@dataclass(frozen=True, slots=True)
class Texts:
    """`variants[v][i]` is way `v` to write item `i` (0 the full text, 1 the title, 2 title words, 3 words dropped).

    `others` are texts of users that belong to no item: students learn to put them where the teacher puts them. `held`
    are some more of these that no training reads.
    """

    variants: list[list[str]]
    phrases: list[Phrase]
    others: list[str] = field(default_factory=list)
    held: list[str] = field(default_factory=list)

    @property
    def all(self) -> list[str]:
        """Every text, variants first (row v * items + i), then phrases, then the others."""
        return [*itertools.chain.from_iterable(self.variants), *(p.text for p in self.phrases), *self.others]

    def save(self, folder: Path) -> None:
        """Write `variants.jsonl`, item by item, and `texts.json`."""
        with (folder / "variants.jsonl").open("w", encoding="utf-8") as file:
            for ways in zip(*self.variants, strict=True):
                file.write(json.dumps(ways, ensure_ascii=False) + "\n")
        rest = {"phrases": [asdict(p) for p in self.phrases], "others": self.others, "held": self.held}
        (folder / "texts.json").write_text(json.dumps(rest, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Texts:
        """Read what `save` wrote."""
        with (folder / "variants.jsonl").open(encoding="utf-8", newline="\n") as file:
            variants = [list(ways) for ways in zip(*map(json.loads, file), strict=True)]
        raw = json.loads((folder / "texts.json").read_text(encoding="utf-8"))
        return cls(variants, [Phrase(**p) for p in raw["phrases"]], raw["others"], raw["held"])


def write_texts(dataset: Dataset, seed: int, others: Sequence[str] = ()) -> Texts:
    """Make the texts of a data set; the same seed gives the same texts."""
    rng = random.Random(seed)  # noqa: S311 (no secret)
    items = dataset.items
    variants = [
        [item.text for item in items],
        [item.title for item in items],
        [_title_words(item, rng) for item in items],
        [_dropped_words(item.text, rng) for item in items],
    ]
    carriers = _carriers(items)
    asked = list(_attribute_phrases(carriers, dataset.nouns))
    if len(asked) > _MAX_PHRASES:
        asked = rng.sample(asked, _MAX_PHRASES)
    return Texts(
        variants,
        phrases=[Phrase(text, _common(carriers, values).tolist()) for text, values in asked],
        others=[text for n, text in enumerate(others) if n % _HELD],
        held=list(others[::_HELD]),
    )


def unseen(texts: Texts, seed: int) -> list[str]:
    """Texts that no training reads: those held back, or, where they are few, items' texts with other words dropped."""
    if len(texts.held) >= _MIN_UNSEEN:
        return texts.held[:_MAX_UNSEEN]
    rng, known = random.Random(seed + 1), {*texts.all}  # noqa: S311 (no secret)
    made = dict.fromkeys(_dropped_words(text, rng) for text in texts.variants[0])
    found = [*texts.held, *(text for text in made if text not in known)]
    return found[:_MAX_UNSEEN] or texts.variants[0][:_MAX_UNSEEN]


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


def _attribute_phrases(carriers: Carriers, nouns: list[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield (phrase, the attribute values that it asks for)."""
    noun = itertools.cycle(nouns)
    for value in carriers:
        for template in _SINGLE:
            yield template.format(a=value, noun=next(noun)), (value,)
    for pair in itertools.permutations(carriers, 2):
        if len(_common(carriers, pair)) >= _MIN_PAIR_ITEMS:
            for template in _PAIR:
                yield template.format(a=pair[0], b=pair[1], noun=next(noun)), pair


def _common(carriers: Carriers, values: tuple[str, ...]) -> NDArray[np.int32]:
    """Positions of the items that carry every one of the values, ascending."""
    found, *others = (carriers[value] for value in values)
    for other in others:
        found = np.intersect1d(found, other, assume_unique=True)
    return found


def _carriers(items: Iterable[Item]) -> Carriers:
    """Attribute value in lower case -> positions of the items that carry it, 4 bytes each."""
    by_name: dict[str, dict[str, array[int]]] = {}
    for n, item in enumerate(items):
        for name, values in item.attributes.items():
            carried = by_name.setdefault(name, {})
            if len(carried) <= MAX_VALUES:
                for value in values:
                    carried.setdefault(value.lower(), array("i")).append(n)
    carriers: Carriers = {}
    for carried in by_name.values():
        if len(carried) <= MAX_VALUES:
            for value, found in carried.items():
                positions = np.frombuffer(found, np.int32)
                carriers[value] = np.union1d(carriers.get(value, positions), positions)
    return carriers
