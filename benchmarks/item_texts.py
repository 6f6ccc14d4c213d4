"""Texts for requests, made of the words of a bundle's catalogue: of a number of words, or of tokens."""

from __future__ import annotations

import json
from collections.abc import Container, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from swiftrec.server.catalogue.catalogue import ITEMS
from swiftrec.server.models.bundle import MANIFEST, Manifest, find_bundle
from swiftrec.server.models.tokenizer import Tokenizer

TOKENIZER = "tokenizer.json"

MIN_WORDS, MAX_WORDS = 3, 60
_BEFORE = "a"  # word before another one whose tokens are counted
_CORRECTIONS = 8  # of a text that is drawn by number of tokens
_NO_LIMIT = 1_000_000  # tokens
_TRIES = 1_000


class Items:
    """Ids and texts of the catalogue of the bundle at `bundle` (or the highest version below it)."""

    def __init__(self, bundle: Path) -> None:
        self.folder = find_bundle(bundle)
        with (self.folder / ITEMS).open(encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        self.ids = [str(row["id"]) for row in rows]
        self.texts = [str(row["text"]) for row in rows]
        self.attributes: dict[str, list[str]] = {}
        for row in rows:
            for name, values in row.get("attributes", {}).items():
                self.attributes.setdefault(name, []).extend(values)


class TokenCounter:
    """Counts tokens with the tokenizer of the bundle in `folder`, of any kind. Special tokens are counted, too.

    Attributes:
        max_tokens: where the server cuts a text.

    Raises:
        BundleError: the bundle's tokenizer file is none.
    """

    def __init__(self, folder: Path) -> None:
        self._tokenizer = Tokenizer.load(folder / TOKENIZER, _NO_LIMIT)
        self.max_tokens = Manifest.model_validate_json((folder / MANIFEST).read_bytes()).max_tokens

    def count(self, text: str) -> int:
        """Tokens of the whole text."""
        return len(self._tokenizer.encode([text])[0])

    def served(self, text: str) -> int:
        """Tokens of the text after the server has cut it."""
        return min(self.count(text), self.max_tokens)


class TokenTexts:
    """Draws texts of a given number of tokens, from words of the catalogue.

    The number of tokens that a word adds is known only approximately: to BPE and Unigram a word at the start of a text
    differs from one after a space. So words are drawn by what they add on average, then words are removed or added at
    the end until the tokenizer counts the given number for the whole text.

    Raises:
        ValueError: the items have no words.
    """

    def __init__(self, items: Items, counter: TokenCounter) -> None:
        words = sorted({word for text in items.texts for word in text.split()})
        self._count, self._special = counter.count, counter.count("")
        before = self._count(_BEFORE)
        counts = [self._count(f"{_BEFORE} {word}") - before for word in words]
        self._words = [word for word, count in zip(words, counts, strict=True) if count > 0]
        self._counts = np.array([count for count in counts if count > 0])
        if not self._words:
            raise ValueError(f"{items.folder / ITEMS}: no text with a word in it: export items with texts")
        self._short = np.flatnonzero(self._counts == self._counts.min())

    def draw(self, tokens: int, random: np.random.Generator) -> tuple[str, int]:
        """A text of `tokens` tokens and that number; of the nearest number if the words give no such text.

        It has one word or more.
        """
        room = max(1, tokens - self._special)
        candidates = random.integers(len(self._words), size=room)
        words = candidates[: int(np.searchsorted(np.cumsum(self._counts[candidates]), room, side="right"))].tolist()
        return self._fitted(words + self._fill(room - int(self._counts[words].sum()), random), tokens, random)

    def of_words(self, number: int, random: np.random.Generator) -> str:
        """A text of `number` words."""
        return " ".join(self._words[n] for n in random.integers(len(self._words), size=number))

    def _fill(self, tokens: int, random: np.random.Generator) -> list[int]:
        """The shortest words, as many as there is room for."""
        number = tokens // int(self._counts[self._short[0]])
        return [int(self._short[n]) for n in random.integers(len(self._short), size=number)]

    def _fitted(self, words: list[int], tokens: int, random: np.random.Generator) -> tuple[str, int]:
        """The text of these words, corrected by what the tokenizer counts."""
        result: list[tuple[int, str, int]] = []
        for _ in range(_CORRECTIONS):
            words = words or [int(random.choice(self._short))]
            text = " ".join(self._words[n] for n in words)
            count = self._count(text)
            result.append((abs(count - tokens), text, count))
            if count == tokens:
                break
            while words and count > tokens:
                count -= int(self._counts[words.pop()])
            words += self._fill(max(0, tokens - count), random)
        _, text, count = min(result, key=lambda item: item[0])
        return text, count


def log_normal_lengths(
    number: int, median: float, sigma: float, limit: int, random: np.random.Generator
) -> NDArray[np.int64]:
    """Log-normal lengths, rounded, in 4..`limit`."""
    return np.clip(np.rint(random.lognormal(np.log(median), sigma, number)), 4, limit).astype(np.int64)


def bundle_texts(bundle: Path, number: int, seed: int) -> list[str]:
    """`mixed_texts` from the catalogue of the bundle at `bundle`."""
    return mixed_texts(Items(bundle).texts, number, seed)


def mixed_texts(sources: Sequence[str], number: int, seed: int) -> list[str]:
    """Join sources in random order, and cut from a random word on.

    Each 58 texts have every length of 3 to 60 words once, in random order, so that two windows of a run do the same
    work. A longer workload of the same seed begins with the shorter one.

    Raises:
        ValueError: the sources give too few different texts.
    """
    words = [text.split() for text in sources if text.split()]
    random = np.random.default_rng(seed)
    texts: dict[str, None] = {}
    while len(texts) < number:
        for length in random.permutation(np.arange(MIN_WORDS, MAX_WORDS + 1))[: number - len(texts)]:
            texts[_fresh(words, int(length), random, texts)] = None
    return list(texts)


def _fresh(words: Sequence[Sequence[str]], length: int, random: np.random.Generator, texts: Container[str]) -> str:
    """A text of `length` words that is not in `texts`."""
    for _ in range(_TRIES):
        text = _joined(words, length, random)
        if text not in texts:
            return text
    raise ValueError(f"the items do not give enough different texts of {length} words: ask for fewer")


def _joined(words: Sequence[Sequence[str]], length: int, random: np.random.Generator) -> str:
    first = words[int(random.integers(len(words)))]
    text = list(first[int(random.integers(len(first))) :])
    while len(text) < length:
        text += words[int(random.integers(len(words)))]
    return " ".join(text[:length])
