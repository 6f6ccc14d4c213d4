"""Splits texts into words and words into pairs of letters, and hashes both."""

from __future__ import annotations

import hashlib
import re
import unicodedata

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
_MAX_LETTERS = 64  # of a word
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]+")  # in scripts without spaces between words, each character is a word
_IS_CJK = re.compile(f"[{_CJK}]")


def split_words(text: str) -> list[str]:
    """The words of a text, in lower case, without accents, and cut to 64 letters."""
    plain = text.casefold()
    if not plain.isascii():
        plain = "".join(map(_plain, unicodedata.normalize("NFKC", plain).casefold()))
    return [word[:_MAX_LETTERS] for word in _WORD.findall(plain)]


def _plain(letter: str) -> str:
    """A letter without its marks, except in Japanese and Korean, where they are part of it: "が" is not "か"."""
    if letter.isascii() or _IS_CJK.match(letter):
        return "" if unicodedata.combining(letter) else letter
    return "".join(part for part in unicodedata.normalize("NFD", letter) if unicodedata.category(part)[0] != "M")


def pairs(word: str) -> set[str]:
    """Pairs of letters with at most one letter between them, ends of the word included: most survive a typing error."""
    marked = f"<{word}>"
    return {marked[n] + marked[n + gap] for gap in (1, 2) for n in range(len(marked) - gap)}


def hash_of(word: str) -> int:
    """The 64-bit hash of a word."""
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
