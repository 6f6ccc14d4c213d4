"""A renamed flag or variable works under its old name for one release, with a warning that names the new one."""

from __future__ import annotations

from typing import ClassVar

import pytest
from pydantic_settings import BaseSettings, SettingsConfigDict

from swiftrec.server.errors import ConfigError
from swiftrec.server.settings_reader import read_settings


class Tools(BaseSettings):
    """Two settings that were renamed, and one that was not."""

    model_config = SettingsConfigDict(
        env_prefix="TOOLS_", cli_prog_name="tools", cli_kebab_case=True, cli_implicit_flags=True
    )
    RENAMED: ClassVar = {"old_size": "max_size", "old_switch": "is_fast"}

    max_size: int = 1
    is_fast: bool = True
    name: str = ""


@pytest.mark.parametrize("flags", [["--old-size", "3"], ["--old-size=3"], ["--name", "x", "--old-size", "3"]])
def test_old_flag_sets_the_new_field_and_warns(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert read_settings(Tools, flags).max_size == 3
    assert capsys.readouterr().err == (
        "tools: warning: --old-size is now --max-size: the old name will not work in the next release\n"
    )


def test_old_switch_can_be_turned_off(capsys: pytest.CaptureFixture[str]) -> None:
    assert not read_settings(Tools, ["--no-old-switch"]).is_fast
    assert "--no-old-switch is now --no-is-fast" in capsys.readouterr().err


def test_new_flag_gives_no_warning(capsys: pytest.CaptureFixture[str]) -> None:
    assert read_settings(Tools, ["--max-size", "3", "--no-is-fast", "--name=--old-size"]).name == "--old-size"
    assert capsys.readouterr().err == ""


def test_old_variable_sets_the_new_field_and_warns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TOOLS_OLD_SIZE", "3")
    assert read_settings(Tools, []).max_size == 3
    assert capsys.readouterr().err == (
        "tools: warning: TOOLS_OLD_SIZE is now TOOLS_MAX_SIZE: the old name will not work in the next release\n"
    )


def test_flag_and_new_variable_override_the_old_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOLS_OLD_SIZE", "3")
    assert read_settings(Tools, ["--max-size", "4"]).max_size == 4
    assert read_settings(Tools, ["--old-size", "5"]).max_size == 5
    monkeypatch.setenv("TOOLS_MAX_SIZE", "6")
    assert read_settings(Tools, []).max_size == 6


def test_invalid_value_of_an_old_name_is_refused_under_the_new_one() -> None:
    with pytest.raises(ConfigError, match="--max-size: "):
        read_settings(Tools, ["--old-size", "three"])


@pytest.mark.parametrize("flags", [["--oldest-size", "3"], ["--oldest-size=3"], ["stray"]])
def test_unknown_argument_is_refused_with_the_command_that_lists_flags(flags: list[str]) -> None:
    with pytest.raises(ConfigError, match=f"^unknown argument {flags[0]}: tools --help lists the flags$"):
        read_settings(Tools, flags)
