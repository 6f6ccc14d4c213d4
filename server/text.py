"""Detects blank texts: those without a visible character."""

from __future__ import annotations

import unicodedata

# Control and format characters (zero-width ones and the byte order mark among them), surrogates, all kinds of spaces.
_INVISIBLE_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp", "Zs"})
# Letters and marks of Unicode's Default_Ignorable_Code_Point (DerivedCoreProperties.txt), and the Braille blank.
_INVISIBLE_RANGES = (
    (0x034F, 0x034F),  # combining grapheme joiner
    (0x115F, 0x1160),  # Hangul fillers
    (0x17B4, 0x17B5),  # Khmer inherent vowels
    (0x180B, 0x180F),  # Mongolian variation selectors
    (0x2065, 0x2065),
    (0x2800, 0x2800),  # Braille pattern without dots
    (0x3164, 0x3164),  # Hangul filler
    (0xFE00, 0xFE0F),  # variation selectors
    (0xFFA0, 0xFFA0),  # half-width Hangul filler
    (0xFFF0, 0xFFF8),
    (0xE0000, 0xE0FFF),  # tags, more variation selectors
)


def is_blank(text: str) -> bool:
    """Whether no character of the text is visible; an empty text is blank."""
    return all(map(_is_invisible, text))


def _is_invisible(char: str) -> bool:
    if unicodedata.category(char) in _INVISIBLE_CATEGORIES:
        return True
    point = ord(char)
    return point >= _INVISIBLE_RANGES[0][0] and any(first <= point <= last for first, last in _INVISIBLE_RANGES)
