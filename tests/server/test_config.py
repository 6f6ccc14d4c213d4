"""Settings from flags and the environment, lists among them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic_settings import BaseSettings

from swiftrec.server.config import ServerSettings, read_settings
from swiftrec.server.errors import ConfigError
from swiftrec.server.parts import PARTS


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


@pytest.mark.parametrize("given", [["a,b"], ["a,b", "c"], ["/x/a, b,,c"], ['["a","b"]'], ['"a"'], ["[a"]])
def test_bundle_flag_may_have_any_character(given: list[str]) -> None:
    flags = [word for folder in given for word in ("--bundle", folder)]
    assert read_settings(ServerSettings, flags).bundle == [Path(folder) for folder in given]


def test_bundle_variable_may_name_a_folder_with_a_comma(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder, other = tmp_path / "a, b,c", tmp_path / "d"
    folder.mkdir()
    other.mkdir()
    for value, expected in (
        (f"{folder}", [folder]),
        (f"{other}, {folder} ,x", [other, folder, Path("x")]),
        (f"{folder},{other}", [folder, other]),
        (f"{other},{'x' * 5_000}", [other, Path("x" * 5_000)]),
    ):
        monkeypatch.setenv("SWIFTREC_BUNDLE", value)
        assert read_settings(ServerSettings, []).bundle == expected


def test_bundle_variable_that_can_be_read_in_two_ways_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    short, long = tmp_path / "a", tmp_path / "a,b"
    short.mkdir()
    long.mkdir()
    monkeypatch.setenv("SWIFTREC_BUNDLE", f"{long}")
    with pytest.raises(ConfigError) as caught:
        read_settings(ServerSettings, [])
    assert f"--bundle: the variable has commas between folders, and {short} and {long} both exist" in str(caught.value)
    assert "use the flag" in str(caught.value)
    assert read_settings(ServerSettings, ["--bundle", f"{long}"]).bundle == [long]


@pytest.mark.parametrize("value", [",", " , "])
def test_variable_without_a_folder_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("SWIFTREC_BUNDLE", value)
    with pytest.raises(ConfigError, match=r"^--bundle: a folder is needed, got "):
        read_settings(ServerSettings, [])


def test_empty_bundle_flag_is_refused() -> None:
    with pytest.raises(ConfigError, match="--bundle: a folder is needed"):
        read_settings(ServerSettings, ["--bundle", ""])


def test_flag_wins_over_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWIFTREC_BUNDLE", "a")
    assert read_settings(ServerSettings, ["--bundle", "b"]).bundle == [Path("b")]


def test_variable_that_pydantic_cannot_parse_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWIFTREC_NUMBERS", "one")
    with pytest.raises(ConfigError, match=r"cannot be read: .*swiftrec_numbers"):
        read_settings(Numbers, [])


@pytest.mark.parametrize("value", ["ranker", "memory,words", ",".join(PARTS)])
def test_parts_of_the_score_are_named(value: str) -> None:
    assert read_settings(ServerSettings, ["--bundle", "x", "--parts", value]).parts == value


@pytest.mark.parametrize(("value", "wrong"), [("ranker,wurds", "'wurds'"), ("", "''"), ("ranker,,memory", "''")])
def test_unknown_part_is_refused_with_the_names_of_all(value: str, wrong: str) -> None:
    said = f"--parts: {wrong} is no part of the score: name some of {', '.join(PARTS)}, separated by commas"
    with pytest.raises(ConfigError, match=said):
        read_settings(ServerSettings, ["--bundle", "x", "--parts", value])


@pytest.mark.parametrize("kind", ["missing", "file", "name of 5,000 letters"])
def test_repository_that_is_no_folder_is_refused_in_one_sentence(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("x" * 5_000 if "letters" in kind else kind)
    if kind == "file":
        path.touch()
    with pytest.raises(ConfigError) as caught:
        read_settings(ServerSettings, ["--bundle", "x", "--repository", f"{path}"])
    assert re.fullmatch(
        rf"--repository: no folder that can be read \([A-Za-z ]+\): create it, or give another, got '{path}'",
        str(caught.value),
    )
    assert read_settings(ServerSettings, ["--bundle", "x", "--repository", f"{tmp_path}"]).repository == tmp_path
