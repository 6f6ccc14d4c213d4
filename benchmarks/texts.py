"""Seeded texts from the words of a bundle's items, by the number of words or by the number of tokens."""

from __future__ import annotations

import json
from collections.abc import Container, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from server.models.bundle import find_bundle
from server.models.tokenizer import Tokenizer

FEWEST_WORDS, MOST_WORDS = 3, 60
SPECIAL_TOKENS = 2  # [CLS] and [SEP]
NO_CUT = 1_000_000
_TRIES = 1_000


class Items:
    """Ids and texts of the catalogue of the bundle at `bundle` (or the highest version below it)."""

    def __init__(self, bundle: Path) -> None:
        self.folder = find_bundle(bundle)
        with (self.folder / "items.jsonl").open(encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        self.ids = [str(row["id"]) for row in rows]
        self.texts = [str(row["text"]) for row in rows]


class TokenTexts:
    """Draws texts of a wanted number of tokens, of words of the catalogue.

    BERT splits at spaces before anything else, so the tokens of a text are those of its words.
    """

    def __init__(self, items: Items) -> None:
        words = sorted({word for text in items.texts for word in text.split()})
        tokenizer = Tokenizer.load(items.folder / "tokenizer.json", NO_CUT)
        counts = [len(row) - SPECIAL_TOKENS for row in tokenizer.encode(words)]
        self._words = [word for word, count in zip(words, counts, strict=True) if count > 0]
        self._counts = np.array([count for count in counts if count > 0])
        self._single = np.flatnonzero(self._counts == 1)
        if not len(self._single):
            raise ValueError(
                f"{items.folder}: no word of its items is one token: texts of a wanted length need that: "
                "measure --workload words, query or history"
            )

    def draw(self, tokens: int, random: np.random.Generator) -> str:
        """A text of `tokens` tokens, [CLS] and [SEP] included; at least one word."""
        room = max(1, tokens - SPECIAL_TOKENS)
        chosen = random.integers(len(self._words), size=room)
        kept = chosen[: int(np.searchsorted(np.cumsum(self._counts[chosen]), room, side="right"))]
        missing = room - int(self._counts[kept].sum())
        filler = self._single[random.integers(len(self._single), size=missing)]
        return " ".join(self._words[n] for n in (*kept, *filler))

    def of_words(self, number: int, random: np.random.Generator) -> tuple[str, int]:
        """A text of `number` words, and its tokens."""
        chosen = random.integers(len(self._words), size=number)
        return " ".join(self._words[n] for n in chosen), int(self._counts[chosen].sum()) + SPECIAL_TOKENS


def log_normal_lengths(
    number: int, median: float, sigma: float, most: int, random: np.random.Generator
) -> NDArray[np.int64]:
    """Log-normal lengths, rounded, in 4..`most`."""
    return np.clip(np.rint(random.lognormal(np.log(median), sigma, number)), 4, most).astype(np.int64)


def texts(bundle: Path, number: int, seed: int) -> list[str]:
    """`mixed_texts` of the catalogue of the bundle at `bundle`."""
    return mixed_texts(Items(bundle).texts, number, seed)


def mixed_texts(sources: Sequence[str], number: int, seed: int) -> list[str]:
    """Join sources in random order, and cut from a random word on.

    Each 58 texts have every length of 3 to 60 words once, in random order, so that two windows of a run do the same
    work. A longer workload of the same seed begins with the shorter one.

    Raises:
        ValueError: the sources do not give so many different texts.
    """
    words = [text.split() for text in sources if text.split()]
    random = np.random.default_rng(seed)
    made: dict[str, None] = {}
    while len(made) < number:
        for length in random.permutation(np.arange(FEWEST_WORDS, MOST_WORDS + 1))[: number - len(made)]:
            made[_fresh(words, int(length), random, made)] = None
    return list(made)


def _fresh(words: Sequence[Sequence[str]], length: int, random: np.random.Generator, made: Container[str]) -> str:
    """A text of `length` words that was not made before."""
    for _ in range(_TRIES):
        text = _joined(words, length, random)
        if text not in made:
            return text
    raise ValueError(f"the items do not give enough different texts of {length} words: ask for fewer")


def _joined(words: Sequence[Sequence[str]], length: int, random: np.random.Generator) -> str:
    first = words[int(random.integers(len(words)))]
    text = list(first[int(random.integers(len(first))) :])
    while len(text) < length:
        text += words[int(random.integers(len(words)))]
    return " ".join(text[:length])
