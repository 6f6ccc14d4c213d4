"""`--flags-from VARIABLE` is replaced by the words of the variable, and runs nothing."""

from __future__ import annotations

import pytest

from swiftrec.server.errors import ConfigError
from swiftrec.server.flags import with_flags


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("--a 1 --b=2", ["--a", "1", "--b=2"]),
        ("--data '/x/my data' \"$HOME\" `id` $(id)", ["--data", "/x/my data", "$HOME", "`id`", "$(id)"]),
        (r"""a\ b "c \" d" é""", ["a b", 'c " d', "é"]),
        ("# no comment; x | y > z", ["#", "no", "comment;", "x", "|", "y", ">", "z"]),
        ("", []),
    ],
)
def test_variable_is_split_as_a_shell_would(text: str, words: list[str]) -> None:
    assert with_flags(["x", "--flags-from", "MORE", "y"], {"MORE": text}) == ["x", *words, "y"]


def test_variable_is_read_only_with_the_flag() -> None:
    assert with_flags(["x"], {"MORE": "y"}) == ["x"]
    assert with_flags(["x", "--flags-from", "MORE"], {}) == ["x"]
    assert with_flags(["--flags-from"], {}) == []


def test_unclosed_quote_is_rejected_with_the_name_of_the_variable() -> None:
    with pytest.raises(ConfigError, match=r"^MORE: No closing quotation, got .*: close the quote"):
        with_flags(["--flags-from", "MORE"], {"MORE": "it's"})
