"""A text without a visible character is empty, whichever invisible characters it has."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swiftrec.server.errors import InvalidRequest
from swiftrec.server.text import is_blank
from swiftrec.server.worker.validate import InputLimits, check_text

INVISIBLE = [
    "\u200b",
    "\ufeff",
    "\u200d\u200c",
    "\u2060",
    "\u00ad",
    "\u202e",
    " \t\n\r",
    "\u3000\u00a0\u2028",
    "\x01\x7f\x85",
]
INVISIBLE += ["\u3164", "\u2800", "\ufe0f", "\u034f", "\U000e0041", "\u180e", "\u200b \ufeff"]


@pytest.mark.parametrize("text", INVISIBLE)
def test_invisible_text_is_refused_and_not_if_a_letter_is_in_it(text: str) -> None:
    assert is_blank(text)
    with pytest.raises(InvalidRequest, match="query: must have a visible character"):
        check_text(text, "query", InputLimits())
    assert check_text(f"{text}a", "query", InputLimits()) == f"{text}a"


def test_empty_text_is_refused() -> None:
    assert is_blank("")
    with pytest.raises(InvalidRequest, match="query: must not be empty"):
        check_text("", "query", InputLimits())


@pytest.mark.parametrize("text", ["a", "?", "1", "é", "映", "🎬", "\u0301", "\ue000", "\u200b?\u200b", "👩\u200d🚀"])
def test_visible_text_is_kept(text: str) -> None:
    assert not is_blank(text)


@given(st.characters())
def test_letters_digits_and_symbols_are_visible_and_spaces_and_controls_are_not(char: str) -> None:
    category = unicodedata.category(char)
    if category in {"Zs", "Zl", "Zp", "Cc", "Cf"} or char.isspace():
        assert is_blank(char)
    if category in {"Ll", "Lu", "Nd", "Nl", "No", "Pd", "Ps", "Sc", "Sm"}:
        assert not is_blank(char)


def test_text_over_the_limit_is_refused_before_each_character_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []

    def is_blank(text: str) -> bool:
        looked.append(text)
        return False

    monkeypatch.setattr("swiftrec.server.worker.validate.is_blank", is_blank)
    limits = InputLimits()
    with pytest.raises(InvalidRequest, match="at most 2000 characters, got 4000000"):
        check_text(" " * 4_000_000, "query", limits)
    assert looked == []
    check_text("a western", "query", limits)
    assert looked == ["a western"]
