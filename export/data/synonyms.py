"""Synonyms, learned from the catalogue's texts: words that occur in the same contexts.

A word's contexts are the words directly before and after it, weighted by positive pointwise mutual information (Levy
and Goldberg, NeurIPS 2014); words with similar contexts (by cosine) count as synonyms. That finds "movie" for "film" if
a catalogue has both, but also "comedy" for "drama": the same contexts do not prove the same meaning.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from swiftrec.server.arrays import Vectors

_WORD = re.compile(r"[^\W\d_]+")
_MIN_LETTERS = 3
_MIN_COUNT = 5  # a rarer word has too few contexts
_MAX_WORDS = 4_096  # the most frequent ones: all matrices are at most [4,096, 4,098], 67 MB each
_MAX_CONTEXTS = 1_024  # words that are contexts: the most frequent ones
_MAX_TEXTS = 100_000  # texts that are read, evenly spaced
_NEAREST, _MIN_COSINE = 4, 0.35
_ROWS = 512

Synonyms = Mapping[str, tuple[str, ...]]
"""Word in lower case -> its synonyms, the most similar first."""


def learn(texts: Iterable[str], size: int) -> Synonyms:
    """Synonyms of the frequent words of `size` texts; deterministic."""
    sampled = [_words(text) for n, text in enumerate(texts) if n % -(-size // _MAX_TEXTS) == 0]
    counts = Counter(word for words in sampled for word in words)
    ranked = sorted((word for word, n in counts.items() if n >= _MIN_COUNT), key=lambda w: (-counts[w], w))[:_MAX_WORDS]
    if len(ranked) < 2:
        return {}
    return dict(_nearest(ranked, _unit(_mutual_information(_neighbours(sampled, ranked)))))


def replaced(text: str, synonyms: Synonyms, share: float, rng: random.Random) -> str:
    """The text with a `share` of the words that have synonyms replaced by one; an initial capital is kept."""

    def replace(match: re.Match[str]) -> str:
        word = match[0]
        near = synonyms.get(word.lower())
        if near is None or rng.random() >= share:
            return word
        chosen = rng.choice(near)
        return chosen.capitalize() if word[0].isupper() else chosen

    return _WORD.sub(replace, text)


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]


def _neighbours(texts: Iterable[list[str]], ranked: list[str]) -> NDArray[np.float32]:
    """How often each word follows and precedes each context [words, 2 * (contexts + 1)]; the last context is an end."""
    numbers = {word: n for n, word in enumerate(ranked)}
    ends = min(len(ranked), _MAX_CONTEXTS)
    counts = np.zeros((len(ranked), 2 * (ends + 1)), dtype=np.float32)
    for words in texts:
        ids = np.array([ends, *(numbers.get(word, -1) for word in words), ends])
        inside = ids[1:-1]
        for side, near in ((0, ids[:-2]), (ends + 1, ids[2:])):
            counted = (inside >= 0) & (near >= 0) & (near <= ends)
            np.add.at(counts, (inside[counted], side + near[counted]), 1)
    return counts


def _mutual_information(counts: NDArray[np.float32]) -> NDArray[np.float32]:
    """Positive pointwise mutual information, [words, contexts]."""
    expected = counts.sum(1, keepdims=True) * counts.sum(0, keepdims=True) / max(1.0, float(counts.sum()))
    ratio = np.divide(counts, expected, out=np.ones_like(counts), where=counts > 0)
    positive: NDArray[np.float32] = np.maximum(np.log(ratio), 0)
    return positive


def _unit(rows: Vectors) -> NDArray[np.float32]:
    unit: NDArray[np.float32] = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.float32(1e-9))
    return unit


def _nearest(ranked: list[str], rows: Vectors) -> Iterator[tuple[str, tuple[str, ...]]]:
    for start in range(0, len(ranked), _ROWS):
        for n, cosines in enumerate(rows[start : start + _ROWS] @ rows.T, start):
            cosines[n] = -1
            best = np.argsort(-cosines, kind="stable")[:_NEAREST]
            near = tuple(
                ranked[m] for m in best.tolist() if cosines[m] >= _MIN_COSINE and len(ranked[m]) >= _MIN_LETTERS
            )
            if near and len(ranked[n]) >= _MIN_LETTERS:
                yield ranked[n], near
