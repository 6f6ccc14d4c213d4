"""Texts for calibration and measurement: as long as a server's requests, not only the short texts of items."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_FEWEST_WORDS, _MOST_WORDS = 3, 60


def joined_texts(sources: Sequence[str], number: int, rng: np.random.Generator) -> list[str]:
    """Texts of 3 to 60 words, all lengths equally often, made of whole sources and cut at the end."""
    lengths = np.linspace(_FEWEST_WORDS, _MOST_WORDS, number).round().astype(int)
    return [_joined(sources, int(length), rng) for length in rng.permutation(lengths)]


def _joined(sources: Sequence[str], length: int, rng: np.random.Generator) -> str:
    words: list[str] = []
    while len(words) < length:
        words += sources[int(rng.integers(len(sources)))].split() or ["?"]
    return " ".join(words[:length])


def calibration_texts(sources: Sequence[str], number: int, rng: np.random.Generator) -> list[str]:
    """Half joined texts, half unchanged sources."""
    picked = rng.permutation(len(sources))[: number // 2]
    return [*joined_texts(sources, number - number // 2, rng), *(sources[n] for n in picked)]
