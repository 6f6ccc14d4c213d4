"""Corrupted texts: typos, dropped words, swapped words."""

from __future__ import annotations

import random
from collections.abc import Callable

_TYPO_CHANCE = 0.12  # of each word of at least `_MIN_LETTERS` letters
_DROP_CHANCE = 0.08  # of each word
_SWAP_CHANCE = 0.08  # of each pair of neighbours
_MIN_LETTERS = 4  # of a word with a typo
_NEIGHBOURS = {
    key: row[max(0, n - 1) : n] + row[n + 1 : n + 2]
    for row in ("qwertyuiop", "asdfghjkl", "zxcvbnm", "1234567890")
    for n, key in enumerate(row)
}


def corrupt(text: str, rng: random.Random) -> str:
    """A corrupted copy: at least one change if some word has four characters; never empty unless the text is.

    The same state of `rng` gives the same copy. Training uses seeds below `seed` + 10,000 and evaluation those above:
    no student is evaluated on corruptions that it was trained on.
    """
    words = text.split()
    kept = [word for word in words if rng.random() >= _DROP_CHANCE] or words
    noisy = [_typo(word, rng) if len(word) >= _MIN_LETTERS and rng.random() < _TYPO_CHANCE else word for word in kept]
    for n in range(len(noisy) - 1):
        if rng.random() < _SWAP_CHANCE:
            noisy[n], noisy[n + 1] = noisy[n + 1], noisy[n]
    long = [n for n, word in enumerate(noisy) if len(word) >= _MIN_LETTERS]
    if noisy == words and long:
        chosen = rng.choice(long)
        noisy[chosen] = _typo(noisy[chosen], rng)
    return " ".join(noisy)


def mistyped(text: str, rng: random.Random) -> str:
    """The text with one or two typing errors in words of at least four letters; unchanged if it has none."""
    words = text.split()
    long = [n for n, word in enumerate(words) if sum(map(str.isalpha, word)) >= _MIN_LETTERS]
    for n in rng.sample(long, min(len(long), rng.randint(1, 2))):
        words[n] = _typo(words[n], rng)
    return " ".join(words)


def _typo(word: str, rng: random.Random) -> str:
    """One letter deleted, doubled, mistyped or swapped with the next one; the first letter stays."""
    edits: tuple[Callable[[str, int, random.Random], str], ...] = (_delete, _double, _swap_with_next, _mistype)
    changed = rng.choice(edits)(word, rng.randrange(1, len(word) - 1), rng)
    return changed if changed != word else _delete(word, 1, rng)


def _delete(word: str, at: int, _: random.Random) -> str:
    return word[:at] + word[at + 1 :]


def _double(word: str, at: int, _: random.Random) -> str:
    return word[:at] + word[at] + word[at:]


def _swap_with_next(word: str, at: int, _: random.Random) -> str:
    return word[:at] + word[at + 1] + word[at] + word[at + 2 :]


def _mistype(word: str, at: int, rng: random.Random) -> str:
    near = _NEIGHBOURS.get(word[at].lower(), "")
    return word[:at] + rng.choice(near) + word[at + 1 :] if near else _delete(word, at, rng)
