"""The texts that training reads: several ways to write each item, and short query phrases with the items they fit."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from swiftrec.export.data.corruption import mistyped
from swiftrec.export.data.dataset import Dataset, Item
from swiftrec.export.data.lazy import Joined, TextFile
from swiftrec.export.data.queries import ATTRIBUTE, training_queries

FULL, TITLE, TITLE_WORDS, NOISY = range(4)
"""Ways to write an item: its text, its title, some words of the title; and, of every other item, the text without some
words or the title with typing errors. A training may add more with noise behind these."""
_HELD = 10  # of so many texts of users one is held back
_MIN_UNSEEN, _MAX_UNSEEN = 50, 2_000


@dataclass(frozen=True, slots=True)
class Phrase:
    """A query in words and the positions of the items that it fits; phrases that ask the same share them.

    `kind` is one of `export.data.queries`; the item of a `SIMILAR` phrase is the one that it names.
    """

    text: str
    items: Sequence[int] | NDArray[np.int32]
    kind: str = ATTRIBUTE


@dataclass(frozen=True, slots=True)
class Texts:
    """`variants[v][i]` is way `v` to write item `i`: see `FULL`, `TITLE` and the other constants.

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
        phrases = [{"text": p.text, "kind": p.kind, "fits": place[id(p.items)]} for p in self.phrases]
        rest = {"ways": len(self.variants), "phrases": phrases, "others": self.others, "held": self.held}
        (folder / "texts.json").write_text(json.dumps(rest, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Texts:
        """Open what `save` wrote; the texts of items stay on disk."""
        raw = json.loads((folder / "texts.json").read_text(encoding="utf-8"))
        with np.load(folder / "phrases.npz", allow_pickle=False) as arrays:
            shared = np.split(arrays["items"], np.cumsum(arrays["lengths"])[:-1])
        phrases = [Phrase(row["text"], shared[row["fits"]], row["kind"]) for row in raw["phrases"]]
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
        (mistyped(item.title, rng) if n % 2 else _dropped_words(item.text, rng) for n, item in enumerate(items)),
    )
    variants: list[Sequence[str]] = [
        TextFile.write(texts, _way(folder, way)) if folder else list(texts) for way, texts in enumerate(ways)
    ]
    return Texts(
        variants,
        phrases=[Phrase(made.text, made.items, made.kind) for made in training_queries(dataset, rng)],
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
