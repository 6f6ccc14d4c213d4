"""`swiftrec bench`: names of the tools and their modules, renamed and withdrawn names, and the help."""

from __future__ import annotations

import re

import pytest
from pydantic_settings import BaseSettings

from swiftrec.benchmarks import __main__ as bench
from swiftrec.server.settings_reader import read_settings

_KINDS = {name: kind for name, (kind, _) in bench._TOOLS.items()}
_OWN_MODULE = {"bench": "suite.settings", "teacher-serve": "teacher"}
_MAX_SUMMARY_CHARS = 105


def wrong_module(name: str, kind: type[BaseSettings]) -> str:
    """The module of a tool if it is called differently: a module or a folder has the name of its tool."""
    module = kind.__module__.removeprefix("swiftrec.benchmarks.").removesuffix(".command")
    expected = _OWN_MODULE.get(name, name.replace("-", "_"))
    return "" if module == expected or module.rpartition(".")[2] == expected else module


def test_modules_are_called_as_their_tools() -> None:
    assert {name: module for name, kind in _KINDS.items() if (module := wrong_module(name, kind))} == {}


def test_module_with_another_name_is_found() -> None:
    """Negative control."""
    assert wrong_module("stub", _KINDS["null-server"]) == "null_server"


def test_renamed_tool_works_and_warns(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        bench.main(["stub", "--help"])
    assert ended.value.code == 0
    said = capsys.readouterr()
    assert said.out.startswith("usage: swiftrec bench null-server ")
    assert said.err == (
        "swiftrec bench: warning: stub is now null-server: the old name will not work in the next release\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ratio"], "ratio was withdrawn: use swiftrec bench --workloads NAME"),
        (["padding", "--texts", "3"], "padding was withdrawn: swiftrec bench --help lists the tools"),
        (["peers", "--repeats", "1", "--flush"], "peers --flush was withdrawn: leave the flag out"),
    ],
)
def test_withdrawn_tool_or_flag_says_what_to_do(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"swiftrec bench: {message}")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("tool", "flags", "field", "value"),
    [
        ("echo", ["--stall-s", "2"], "pause_s", 2.0),
        ("echo", ["--stall-after-s=3"], "pause_after_s", 3.0),
        ("peers", ["--out", "folder"], "results", "folder"),
        ("quality", ["--out", "folder"], "results", "folder"),
        ("catalogue", ["--narrow", "5"], "exact_below", 5),
    ],
)
def test_renamed_flag_works_and_warns(
    tool: str, flags: list[str], field: str, value: float | str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = read_settings(_KINDS[tool], flags)
    assert type(value)(getattr(settings, field)) == value
    old, new = flags[0].partition("=")[0], field.replace("_", "-")
    assert f"swiftrec bench {tool}: warning: {old} is now --{new}: " in capsys.readouterr().err


@pytest.mark.parametrize("name", _KINDS)
def test_help_begins_with_a_verb_and_fits_one_line(name: str) -> None:
    summary = (_KINDS[name].__doc__ or "").splitlines()[0]
    assert len(summary) <= _MAX_SUMMARY_CHARS
    assert re.match(r"(Compare|Forward|Generate|Load|Measure|Print|Replace|Run) ", summary)
    assert "goals" not in summary


def test_help_of_load_hides_what_only_the_parent_process_sets(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read_settings(_KINDS["load"], ["--help"])
    shown = capsys.readouterr().out
    assert not re.search(r"--(part|parts|window)\b", shown)
    assert "--processes" in shown
    hidden = read_settings(_KINDS["load"], ["--target", "a:1", "--part", "1", "--parts", "2", "--window", "w.npz"])
    assert (getattr(hidden, "part", 0), getattr(hidden, "parts", 0)) == (1, 2)
