"""Ids of users and items: opaque strings, kept byte for byte or refused with the reason."""

from __future__ import annotations

import re
from collections.abc import Container

from swiftrec.export.literals import is_list_of_texts, parse_literal

MAX_ID_BYTES = 512

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_WHOLE = re.compile(r"-?[0-9]{1,40}")
_DECIMAL = re.compile(r"(-?[0-9]{1,40})\.0+")
_EXPONENT = re.compile(r"(-?[0-9])(?:\.([0-9]{1,20}))?[eE]\+?([0-9]{1,2})")


def id_fault(text: str) -> str | None:
    """Why `text` cannot be an id, as the end of a sentence; None for a valid one.

    Any other text is kept as it is: every kind of blank inside and at the ends, letters of every script, "|" and ",".
    """
    if text[:1] in ("b", "[") and (fault := _literal_fault(text)):
        return fault
    if text.isascii() and text.isprintable() and len(text) <= MAX_ID_BYTES and not text.isspace() and text:
        return None
    if not text.strip():
        return "is empty or white space only"
    if control := _CONTROL.search(text):
        return f"holds the control character U+{ord(control[0]):04X}"
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError:
        return "holds half of a surrogate pair, which is not Unicode text"
    return f"has {size:,} bytes as UTF-8, at most {MAX_ID_BYTES} are allowed" if size > MAX_ID_BYTES else None


def _literal_fault(text: str) -> str | None:
    """The fault of an id in the notation of a program, such as "b'12'"."""
    if is_list_of_texts(text):
        return "is a list written as text: write one id"
    value = parse_literal(text) if text[0] == "b" else text
    if value == text:
        return None
    return f"is bytes written as text: write {value}" if isinstance(value, str) else "is bytes written as text"


def known_spelling(unknown: str, known: Container[str]) -> str:
    """A hint for an id that is not in `known` if another spelling of it is; else an empty string."""
    number = _as_whole_number(unknown)
    numbers = [number, f"{number}.0"] if number else []
    if similar := _first_known(numbers, known):
        return f", but {similar!r} is: the ids were converted to decimal numbers; write them as text in every table"
    if similar := _first_known([unknown.strip(), f"{unknown} ", f" {unknown}"], known):
        return f", but {similar!r} is: blanks around an id are part of it; remove them"
    return ""


def _first_known(spellings: list[str], known: Container[str]) -> str | None:
    return next((spelling for spelling in spellings if spelling in known), None)


def _as_whole_number(text: str) -> str | None:
    """The digits of a number without a fraction: "12" of "12", "12.0" and "1.2e1"."""
    if _WHOLE.fullmatch(text):
        return text
    if match := _DECIMAL.fullmatch(text):
        return match[1]
    if (match := _EXPONENT.fullmatch(text)) and len(match[2] or "") <= int(match[3]):
        return match[1] + (match[2] or "").ljust(int(match[3]), "0")
    return None
