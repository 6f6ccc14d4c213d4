"""Noise as people make it: typos, dropped words, words in the wrong order."""

from __future__ import annotations

import random
from collections.abc import Callable

_TYPO = 0.12  # of each word that is long enough to be recognised with one
_DROP = 0.08  # of each word
_SWAP = 0.08  # of each pair of neighbours
_MIN_LETTERS = 4  # of a word that a typo may fall on
_NEIGHBOURS = {
    key: row[max(0, n - 1) : n] + row[n + 1 : n + 2]
    for row in ("qwertyuiop", "asdfghjkl", "zxcvbnm", "1234567890")
    for n, key in enumerate(row)
}


def corrupt(text: str, rng: random.Random) -> str:
    """The text with noise in it: at least one change if it has a word of four characters, never empty if it was not.

    The same state of `rng` gives the same text; nothing else is read. Training draws from seeds below `seed` + 10,000,
    evaluation from those above, so that no student has seen the noise that it is judged by.
    """
    words = text.split()
    kept = [word for word in words if rng.random() >= _DROP] or words
    noisy = [_typo(word, rng) if len(word) >= _MIN_LETTERS and rng.random() < _TYPO else word for word in kept]
    for n in range(len(noisy) - 1):
        if rng.random() < _SWAP:
            noisy[n], noisy[n + 1] = noisy[n + 1], noisy[n]
    long = [n for n, word in enumerate(noisy) if len(word) >= _MIN_LETTERS]
    if noisy == words and long:
        place = rng.choice(long)
        noisy[place] = _typo(noisy[place], rng)
    return " ".join(noisy)


def mistyped(text: str, rng: random.Random) -> str:
    """The text with one or two typing errors, in words of four letters and more; as it is if it has no such word."""
    words = text.split()
    long = [n for n, word in enumerate(words) if sum(map(str.isalpha, word)) >= _MIN_LETTERS]
    for n in rng.sample(long, min(len(long), rng.randint(1, 2))):
        words[n] = _typo(words[n], rng)
    return " ".join(words)


def _typo(word: str, rng: random.Random) -> str:
    """One letter lost, doubled, mistyped or exchanged with its neighbour; the first letter stays."""
    edits: tuple[Callable[[str, int, random.Random], str], ...] = (_lose, _double, _exchange, _mistype)
    changed = rng.choice(edits)(word, rng.randrange(1, len(word) - 1), rng)
    return changed if changed != word else _lose(word, 1, rng)


def _lose(word: str, at: int, _: random.Random) -> str:
    return word[:at] + word[at + 1 :]


def _double(word: str, at: int, _: random.Random) -> str:
    return word[:at] + word[at] + word[at:]


def _exchange(word: str, at: int, _: random.Random) -> str:
    return word[:at] + word[at + 1] + word[at] + word[at + 2 :]


def _mistype(word: str, at: int, rng: random.Random) -> str:
    near = _NEIGHBOURS.get(word[at].lower(), "")
    return word[:at] + rng.choice(near) + word[at + 1 :] if near else _lose(word, at, rng)
