"""Settings from flags and the environment, lists among them."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic_settings import BaseSettings

from server.config import ServerSettings, read_settings
from server.errors import ConfigError


class Numbers(BaseSettings):
    """A list that pydantic reads as JSON."""

    swiftrec_numbers: list[int] = []


@pytest.mark.parametrize(
    ("value", "folders"),
    [
        ("artifacts/x", ["artifacts/x"]),
        ("a,b", ["a", "b"]),
        ("a, b,", ["a", "b"]),
        ("[a", ["[a"]),
    ],
)
def test_bundle_variable_is_a_list_with_commas(monkeypatch: pytest.MonkeyPatch, value: str, folders: list[str]) -> None:
    monkeypatch.setenv("SWIFTREC_BUNDLE", value)
    assert read_settings(ServerSettings, []).bundle == [Path(folder) for folder in folders]


def test_bundle_flag_may_be_given_again() -> None:
    assert read_settings(ServerSettings, ["--bundle", "a", "--bundle", "b"]).bundle == [Path("a"), Path("b")]
    assert read_settings(ServerSettings, ["--bundle", "a"]).bundle == [Path("a")]


def test_flag_wins_over_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWIFTREC_BUNDLE", "a")
    assert read_settings(ServerSettings, ["--bundle", "b"]).bundle == [Path("b")]


def test_bundle_variable_is_refused_when_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWIFTREC_BUNDLE", "")
    with pytest.raises(ConfigError, match=r"--bundle: .*at least 1"):
        read_settings(ServerSettings, [])


def test_variable_that_pydantic_cannot_parse_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWIFTREC_NUMBERS", "one")
    with pytest.raises(ConfigError, match=r"cannot be read: .*swiftrec_numbers"):
        read_settings(Numbers, [])
