"""The texts that training reads: several variants of each item's text, and short query phrases."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from swiftrec.export.data.corruption import mistyped
from swiftrec.export.data.dataset import Dataset, DatasetItem
from swiftrec.export.data.lazy import Joined, TextFile
from swiftrec.export.data.queries import Phrase, training_queries
from swiftrec.server.arrays import Positions

_HELD_OUT_EVERY = 10  # one of this many user texts is held out
_DROP_SHARE = 0.25  # of the words
_MIN_UNSEEN, _MAX_UNSEEN = 50, 2_000


Position = TypeVar("Position", int, NDArray[np.int64])


class TextVariant(IntEnum):
    """The variants of an item's text, in the order of `Texts.variants`; `--augment` appends corrupted copies."""

    FULL = 0
    """The item's text."""
    TITLE = 1
    """Its title."""
    TITLE_WORDS = 2
    """Some neighbouring words of the title."""
    DROPPED = 3
    """The text with words dropped; for every second item the title with typing errors instead."""


@dataclass(frozen=True, slots=True)
class TextRows:
    """Row numbers of `Texts.all`: the texts of all items in one variant after the other, then phrases, then others.

    Args:
        items: number of items.
        variants: number of variants of each item's text, copies of `--augment` included.
    """

    items: int
    variants: int = len(TextVariant)

    def of(self, variant: int) -> slice:
        """The rows of all items' texts in one variant."""
        return slice(variant * self.items, (variant + 1) * self.items)

    def row(self, variant: int, item: Position) -> Position:
        """The row of an item's text in one variant; also for an array of items."""
        return variant * self.items + item

    def owners(self, texts: Sequence[int]) -> Positions:
        """The item of each of these rows; for the n-th of the phrases and other texts, `items` + n."""
        rows = np.asarray(texts)
        return np.where(rows < self.first_phrase, rows % self.items, rows - self.first_phrase + self.items)

    @property
    def phrases(self) -> slice:
        """The rows of the phrases and of the other texts, which are all that follow those of the items."""
        return slice(self.first_phrase, None)

    @property
    def first_phrase(self) -> int:
        """The row of the first phrase, which is the number of item texts."""
        return self.variants * self.items


@dataclass(frozen=True, slots=True)
class Texts:
    """All texts of a training run.

    Args:
        variants: `variants[v][i]` is variant `v` of item `i`'s text (see `TextVariant`).
        phrases: queries with the items that match them.
        others: texts of users that belong to no item; students learn the teacher's vectors of them.
        held: user texts that no training reads.
    """

    variants: Sequence[Sequence[str]]
    phrases: list[Phrase]
    others: list[str] = field(default_factory=list)
    held: list[str] = field(default_factory=list)

    @property
    def all(self) -> Joined[str]:
        """Every text; `rows` says which row holds what."""
        return Joined([*self.variants, [p.text for p in self.phrases], self.others])

    @property
    def rows(self) -> TextRows:
        """The row numbers of `all`."""
        return TextRows(len(self.variants[TextVariant.FULL]), len(self.variants))

    def save(self, folder: Path) -> None:
        """Write one file of texts for each variant (unless it exists there), `texts.json` and `phrases.npz`."""
        for variant, texts in zip(TextVariant, self.variants, strict=True):
            if not (isinstance(texts, TextFile) and texts.path == _path(folder, variant)):
                TextFile.write(texts, _path(folder, variant))
        shared = {id(phrase.items): phrase.items for phrase in self.phrases}
        position = {key: n for n, key in enumerate(shared)}
        flat = np.concatenate([np.empty(0, np.int32), *(np.asarray(items, np.int32) for items in shared.values())])
        lengths = np.array([len(items) for items in shared.values()], dtype=np.int64)
        np.savez(folder / "phrases.npz", items=flat, lengths=lengths)
        phrases = [{"text": p.text, "kind": p.kind, "items": position[id(p.items)]} for p in self.phrases]
        rest = {"phrases": phrases, "others": self.others, "held": self.held}
        (folder / "texts.json").write_text(json.dumps(rest, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Texts:
        """Open what `save` wrote; the texts of items stay on disk."""
        raw = json.loads((folder / "texts.json").read_text(encoding="utf-8"))
        with np.load(folder / "phrases.npz", allow_pickle=False) as arrays:
            shared = np.split(arrays["items"], np.cumsum(arrays["lengths"])[:-1])
        phrases = [Phrase(row["text"], shared[row["items"]], row["kind"]) for row in raw["phrases"]]
        variants = [TextFile(_path(folder, variant)) for variant in TextVariant]
        return cls(variants, phrases, raw["others"], raw["held"])


def _path(folder: Path, variant: TextVariant) -> Path:
    return folder / f"text-{variant.name.lower()}.jsonl"


def write_texts(dataset: Dataset, seed: int, others: Sequence[str] = (), folder: Path | None = None) -> Texts:
    """Make the texts of a data set; the same seed gives the same texts.

    The item texts are written into `folder` while they are made; without a folder they are kept in lists.
    """
    rng, items = random.Random(seed), dataset.items  # noqa: S311 (no secret)
    made: dict[TextVariant, Iterable[str]] = {
        TextVariant.FULL: (item.text for item in items),
        TextVariant.TITLE: (item.title for item in items),
        TextVariant.TITLE_WORDS: (_title_words(item, rng) for item in items),
        TextVariant.DROPPED: (
            mistyped(item.title, rng) if n % 2 else _dropped_words(item.text, rng) for n, item in enumerate(items)
        ),
    }
    variants: list[Sequence[str]] = [
        TextFile.write(made[variant], _path(folder, variant)) if folder else list(made[variant])
        for variant in TextVariant
    ]
    return Texts(
        variants,
        phrases=training_queries(dataset, rng),
        others=[text for n, text in enumerate(others) if n % _HELD_OUT_EVERY],
        held=list(others[::_HELD_OUT_EVERY]),
    )


def unseen(texts: Texts, seed: int) -> list[str]:
    """Texts that no training reads: the held-out user texts or, if they are few, item texts with other words dropped.

    At most 2,000; only if every such text is one that training reads, the item texts themselves.
    """
    if len(texts.held) >= _MIN_UNSEEN:
        return texts.held[:_MAX_UNSEEN]
    rng, full = random.Random(seed + 1), texts.variants[TextVariant.FULL]  # noqa: S311 (no secret)
    dropped = (_dropped_words(text, rng) for text in full)
    made = dict.fromkeys(itertools.islice(dropped, 2 * _MAX_UNSEEN))
    for text in texts.all:
        made.pop(text, None)
    return [*texts.held, *made][:_MAX_UNSEEN] or list(full[:_MAX_UNSEEN])


def _title_words(item: DatasetItem, rng: random.Random) -> str:
    """Some neighbouring words of the title, in lower case, as typed into a search box."""
    words = item.title.lower().split()
    length = rng.randint(1, len(words))
    start = rng.randint(0, len(words) - length)
    return " ".join(words[start : start + length])


def _dropped_words(text: str, rng: random.Random) -> str:
    words = text.split()
    kept = [word for word in words if rng.random() > _DROP_SHARE]
    return " ".join(kept or words)
