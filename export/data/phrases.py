"""The texts that training reads: four ways to write each item, and short query phrases with the items they fit."""

from __future__ import annotations

import itertools
import json
import random
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.data.dataset import Dataset, Item
from export.data.lines import Joined, TextFile

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
    """A query in words and the positions of the items that it fits; phrases that ask the same share them."""

    text: str
    items: Sequence[int] | NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Texts:
    """`variants[v][i]` is way `v` to write item `i` (0 the full text, 1 the title, 2 title words, 3 words dropped).

    `others` are texts of users that belong to no item: students learn to put them where the teacher puts them. `held`
    are some more of these that no training reads.
    """

    variants: Sequence[Sequence[str]]
    phrases: list[Phrase]
    others: list[str] = field(default_factory=list)
    held: list[str] = field(default_factory=list)

    @property
    def all(self) -> Joined[str]:
        """Every text, variants first (row v * items + i), then phrases, then the others."""
        return Joined([*self.variants, [p.text for p in self.phrases], self.others])

    def save(self, folder: Path) -> None:
        """Write a file of texts for each way (unless they lie there already), `texts.json` and `phrases.npz`."""
        for way, texts in enumerate(self.variants):
            if not (isinstance(texts, TextFile) and texts.path == _way(folder, way)):
                TextFile.write(texts, _way(folder, way))
        shared = {id(phrase.items): phrase.items for phrase in self.phrases}
        place = {key: n for n, key in enumerate(shared)}
        flat = np.concatenate([np.empty(0, np.int32), *(np.asarray(items, np.int32) for items in shared.values())])
        lengths = np.array([len(items) for items in shared.values()], dtype=np.int64)
        np.savez(folder / "phrases.npz", items=flat, lengths=lengths)
        phrases = [{"text": phrase.text, "fits": place[id(phrase.items)]} for phrase in self.phrases]
        rest = {"ways": len(self.variants), "phrases": phrases, "others": self.others, "held": self.held}
        (folder / "texts.json").write_text(json.dumps(rest, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Texts:
        """Open what `save` wrote; the texts of items stay on disk."""
        raw = json.loads((folder / "texts.json").read_text(encoding="utf-8"))
        with np.load(folder / "phrases.npz", allow_pickle=False) as arrays:
            shared = np.split(arrays["items"], np.cumsum(arrays["lengths"])[:-1])
        phrases = [Phrase(row["text"], shared[row["fits"]]) for row in raw["phrases"]]
        ways: list[Sequence[str]] = [TextFile(_way(folder, way)) for way in range(raw["ways"])]
        return cls(ways, phrases, raw["others"], raw["held"])


def _way(folder: Path, way: int) -> Path:
    return folder / f"way-{way}.jsonl"


def write_texts(dataset: Dataset, seed: int, others: Sequence[str] = (), folder: Path | None = None) -> Texts:
    """Make the texts of a data set; the same seed gives the same texts.

    Those of items are written into `folder` as they are made and stay there; without one they are lists.
    """
    rng, items = random.Random(seed), dataset.items  # noqa: S311 (no secret)
    ways: tuple[Iterable[str], ...] = (
        (item.text for item in items),
        (item.title for item in items),
        (_title_words(item, rng) for item in items),
        (_dropped_words(item.text, rng) for item in items),
    )
    variants: list[Sequence[str]] = [
        TextFile.write(texts, _way(folder, way)) if folder else list(texts) for way, texts in enumerate(ways)
    ]
    carriers = _carriers(items)
    asked = list(_attribute_phrases(carriers, dataset.nouns, len(items)))
    if len(asked) > _MAX_PHRASES:
        asked = rng.sample(asked, _MAX_PHRASES)
    fitting = {values: _common(carriers, values) for values in dict.fromkeys(values for _, values in asked)}
    return Texts(
        variants,
        phrases=[Phrase(text, fitting[values]) for text, values in asked],
        others=[text for n, text in enumerate(others) if n % _HELD],
        held=list(others[::_HELD]),
    )


def unseen(texts: Texts, seed: int) -> list[str]:
    """Texts that no training reads: those held back, or, where they are few, items' texts with other words dropped."""
    if len(texts.held) >= _MIN_UNSEEN:
        return texts.held[:_MAX_UNSEEN]
    rng = random.Random(seed + 1)  # noqa: S311 (no secret)
    made = (_dropped_words(text, rng) for text in texts.variants[0])
    found = dict.fromkeys(itertools.islice(made, 2 * _MAX_UNSEEN))
    for text in texts.all:
        found.pop(text, None)
    return [*texts.held, *found][:_MAX_UNSEEN] or list(texts.variants[0][:_MAX_UNSEEN])


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


def _attribute_phrases(carriers: Carriers, nouns: list[str], items: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield (phrase, the attribute values that it asks for, sorted)."""
    noun = itertools.cycle(nouns)
    for value in carriers:
        for template in _SINGLE:
            yield template.format(a=value, noun=next(noun)), (value,)
    for first, found in carriers.items():
        carries = np.zeros(items, dtype=bool)
        carries[found] = True
        for second, others in carriers.items():
            if second != first and np.count_nonzero(carries[others]) >= _MIN_PAIR_ITEMS:
                for template in _PAIR:
                    asked = template.format(a=first, b=second, noun=next(noun))
                    yield asked, (min(first, second), max(first, second))


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
