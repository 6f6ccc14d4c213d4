"""What is typed after `make` reaches the programs as it was typed; setup repairs a broken environment in one line."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

_STUB = """#!{python}
import json, os, sys
names = {names!r}
found = {{n: v.encode(errors="surrogateescape").hex() for n, v in os.environ.items() if n.startswith(names)}}
with open("calls", "a") as file:
    file.write(json.dumps({{"argv": sys.argv[1:], "env": found}}) + "\\n")
if sys.argv[1:3] == ["-m", "swiftrec.export"]:
    print("artifacts/found by the export")
"""
_NAMES = ("SWIFTREC_", *(f"{n}_TYPED" for n in ("EXPORT_FLAGS", "SERVE_FLAGS", "ASK_FLAGS", "BENCH_FLAGS", "BUNDLE")))
_NASTY = [
    "a 'quoted' word",
    'a "quoted" word',
    "`touch ran`",
    "$(touch ran)",
    "$(shell touch ran)",
    "${HOME} $HOME $$HOME $",
    "a; touch ran",
    "a & touch ran | b > ran",
    "[a-z]* {a,b} ~ !! ^ %",
    "back\\slash \\' \\n",
    "# no comment",
    "  two  blanks  ",
    "été 日本 🎬",
    "-x --y",
    "two\nlines",
    "a := b = c ?= d",
    "%s %d %",
    "(a, b)",
    "$(error a) $(value Q) $(Q)",
]


def makefile(folder: Path, python: str) -> Path:
    """A copy of the Makefile whose environment is made and holds `python` as its interpreter."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    program = folder / ".venv" / "bin" / "python"
    program.parent.mkdir(parents=True)
    program.write_text(python)
    program.chmod(0o755)
    for extra in ("cpu", "gpu"):
        (folder / ".venv" / f".ready-{extra}").touch()
    return folder


@pytest.fixture
def stubbed(tmp_path: Path) -> Path:
    """A folder where make's programs note their arguments and environment in the file `calls`."""
    return makefile(tmp_path, _STUB.format(python=sys.executable, names=_NAMES))


def make(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {n: v for n, v in os.environ.items() if not n.startswith(("SWIFTREC_", "MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", "-s", *arguments], cwd=folder, env=clean | environment, capture_output=True, text=True, check=False
    )


def calls(folder: Path) -> list[dict[str, str]]:
    """The environment that each program saw, and its arguments as `argv`."""
    found = [json.loads(line) for line in (folder / "calls").read_text().splitlines()]
    return [
        {name: bytes.fromhex(value).decode() for name, value in row["env"].items()} | {"argv": " ".join(row["argv"])}
        for row in found
    ]


@pytest.mark.parametrize("text", _NASTY)
@pytest.mark.parametrize(
    ("target", "variable", "received"),
    [
        ("ask", "Q", "SWIFTREC_ASK_QUERY"),
        ("ask", "HISTORY", "SWIFTREC_ASK_HISTORY"),
        ("export", "DATA", "SWIFTREC_EXPORT_DATA"),
        ("export", "EXPORT_FLAGS", "EXPORT_FLAGS_TYPED"),
        ("serve", "BUNDLE", "BUNDLE_TYPED"),
        ("serve", "SERVE_FLAGS", "SERVE_FLAGS_TYPED"),
    ],
)
def test_text_arrives_byte_for_byte_and_runs_nothing(
    stubbed: Path, target: str, variable: str, received: str, text: str
) -> None:
    result = make(stubbed, target, f"{variable}={text}")
    assert result.returncode == 0, result.stderr
    assert calls(stubbed)[-1][received] == text.lstrip()  # make itself drops blanks before a value
    assert sorted(path.name for path in stubbed.iterdir() if path.name[0] != ".") == [
        "Makefile",
        "calls",
        "constraints.txt",
        "pyproject.toml",
    ]


@pytest.mark.parametrize("text", [text for text in _NASTY if "\n" not in text])
def test_text_from_the_environment_arrives_too(stubbed: Path, text: str) -> None:
    assert make(stubbed, "ask", Q=text).returncode == 0
    assert calls(stubbed)[-1]["SWIFTREC_ASK_QUERY"] == text


@pytest.mark.parametrize(
    ("target", "variable", "argument"),
    [
        ("ask", "HOST", "--address={}:8001"),
        ("ask", "PORT", "--address=127.0.0.1:{}"),
        ("serve", "BUNDLE", "--bundle={}"),
        ("tune", "BUNDLE", "--bundle={}"),
        ("bench", "BUNDLE", "--bundle={}"),
        ("bench", "BENCH", "--size={}"),
        ("bench-peers", "DEVICE", "--device={}"),
        ("bench-compare", "BASE", "--base={}"),
        ("soak", "SEED", "--seed={}"),
        ("soak", "SOAK", "--requests={}"),
        ("fuzz", "DECODE", "--decode={}"),
    ],
)
def test_arguments_are_one_word_as_typed(stubbed: Path, target: str, variable: str, argument: str) -> None:
    for text in ("::1", "a,b", "/x/my data [é] $(touch ran) `touch ran` \"'"):
        assert make(stubbed, target, f"{variable}={text}").returncode == 0
        last = json.loads((stubbed / "calls").read_text().splitlines()[-1])["argv"]
        assert argument.format(text) in last
    assert not (stubbed / "ran").exists()


@pytest.mark.parametrize("target", ["ask", "serve", "setup"])
def test_variables_that_recipes_contain_cannot_be_set(stubbed: Path, target: str) -> None:
    names = re.findall(r"^(?:override )?(\w+) :?= ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"VENV", "BIN", "READY", "LOG", "EXPORT", "pass"} <= {*names}
    for name in names:
        make(stubbed, target, f"{name}=`touch ran`")
        make(stubbed, "-e", target, **{name: "`touch ran`"})
        assert not (stubbed / "ran").exists(), name


def test_variables_that_are_not_given_pass_nothing(stubbed: Path) -> None:
    for target in ("export", "serve", "ask", "bench"):
        assert make(stubbed, target).returncode == 0
    for row in calls(stubbed):
        assert set(row) == {"argv"}
        assert "--address" not in row["argv"]


def test_export_names_the_bundle_that_is_served_and_measured(stubbed: Path) -> None:
    for target in ("serve", "tune", "bench", "bench-peers"):
        assert make(stubbed, target).returncode == 0
        assert "--bundle=artifacts/found by the export" in calls(stubbed)[-1]["argv"]
    assert not [row for row in calls(stubbed) if "--name" in row["argv"]]
    assert [row["argv"] for row in calls(stubbed) if "-m export" in row["argv"]] == [
        "-m export --flags-from EXPORT_FLAGS_TYPED",
        "-m export where --flags-from EXPORT_FLAGS_TYPED",
        *["-m export --flags-from EXPORT_FLAGS_TYPED"] * 2,
    ]


def test_given_bundle_is_served_without_an_export(stubbed: Path) -> None:
    assert make(stubbed, "serve", "BUNDLE=x").returncode == 0
    assert make(stubbed, "serve", SWIFTREC_BUNDLE="x,y").returncode == 0
    assert [row["argv"] for row in calls(stubbed)] == [
        "-m server --bundle=x --flags-from SERVE_FLAGS_TYPED",
        "-m server --flags-from SERVE_FLAGS_TYPED",
    ]
    assert calls(stubbed)[1]["SWIFTREC_BUNDLE"] == "x,y"


def test_export_that_fails_starts_no_server(tmp_path: Path) -> None:
    folder = makefile(tmp_path, '#!/bin/sh\necho "$2" >> calls\nexit 3\n')
    assert make(folder, "serve").returncode != 0
    assert (folder / "calls").read_text().split() == ["export"]


def test_export_runs_beside_the_tests_so_that_its_progress_is_seen(stubbed: Path) -> None:
    assert make(stubbed, "test", "DATA=x", "PORT=1").returncode == 0
    assert sorted(" ".join(row["argv"].split()[:4]) for row in calls(stubbed)) == [
        "-m export --preset quick",
        "-m pytest -n 3",
    ]
    assert not [name for row in calls(stubbed) for name in row if name.startswith("SWIFTREC_")]


@pytest.mark.parametrize(
    ("flags", "environment", "name"),
    [
        ([], {}, "movielens-quick"),
        ([], {"SWIFTREC_EXPORT_PROTOCOL": "time"}, "movielens-quick-time"),
        (["EXPORT_FLAGS=--protocol time"], {}, "movielens-quick-time"),
        (["PRESET=full", "DATA=/x/Mes données [1]"], {}, "Mes-donnees-1-full"),
        (["NAME=mine"], {"SWIFTREC_EXPORT_PROTOCOL": "time"}, "mine"),
    ],
)
def test_one_owner_of_the_bundles_name(
    tmp_path: Path, flags: list[str], environment: dict[str, str], name: str
) -> None:
    script = f'#!/bin/sh\ncase "$2" in export) cd {ROOT} && exec {sys.executable} -m export where "$@" ;; esac\n'
    folder = makefile(tmp_path, script.replace('"$@"', "--flags-from EXPORT_FLAGS_TYPED") + 'echo "$3"\n')
    result = make(folder, "serve", *flags, **environment)
    assert result.stdout.strip() == f"--bundle=artifacts/{name}", result.stderr


@pytest.mark.parametrize("target", ["export", "serve", "report", "bench"])
def test_variables_and_flags_become_settings_of_the_export(tmp_path: Path, target: str) -> None:
    code = (
        "import os, sys; from export.config import ExportSettings; from server.flags import with_flags; "
        "s = ExportSettings(_cli_parse_args=with_flags(['--flags-from', 'EXPORT_FLAGS_TYPED'], os.environ)); "
        "print(s.preset, s.teachers, s.trunk, s.data, s.checkpoint, s.name, file=sys.stderr)"
    )
    script = f'#!/bin/sh\ntest "$2" = export || exit 0\ncd {ROOT} && exec {sys.executable} -c "{code}"\n'
    variables = ["PRESET=full", "TEACHERS=3", "EXPORT_FLAGS=--trunk all", "DATA=/x/my data", "CHECKPOINT=a/b", "NAME=n"]
    result = make(makefile(tmp_path, script), target, *variables)
    assert result.stderr == "full 3 all /x/my data a/b n\n"


_PYTHON = """#!/bin/sh
# A Python that makes environments: `$FAULT` says what goes wrong.
echo "$0 $*" >> {folder}/log
case "$*" in
    *version_info*) exit 0 ;;
    "-m venv .venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
    "-m pip --version") test -e .venv/whole ;;
    "-m pip install"*)
        i=0; while [ $i -lt 220 ]; do echo "line $i"; i=$((i + 1)); done
        if [ "$FAULT" = install ]; then echo "ERROR: no network" >&2; exit 1; fi
        touch .venv/whole ;;
esac
"""


def bare(folder: Path) -> str:
    """The Makefile without an environment, and a stub of Python; return its path."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    python = folder / "my python"
    python.write_text(_PYTHON.format(folder=folder))
    python.chmod(0o755)
    return str(python)


def test_setup_prints_one_line_and_keeps_the_rest(tmp_path: Path) -> None:
    result = make(tmp_path, "setup", f"PYTHON={bare(tmp_path)}")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "installing into .venv (about a minute, details in .venv/setup.log) ...\n"
    assert "line 219" in (tmp_path / ".venv" / "setup.log").read_text()
    assert make(tmp_path, "setup").stdout == ""  # nothing to do


def test_failed_setup_shows_the_end_of_the_log_and_names_it(tmp_path: Path) -> None:
    python = bare(tmp_path)
    result = make(tmp_path, "setup", f"PYTHON={python}", FAULT="install")
    assert result.returncode != 0
    assert "ERROR: no network\nsetup: installing failed; above is the end of .venv/setup.log: " in result.stderr
    assert "line 210" not in result.stderr
    assert make(tmp_path, "setup", f"PYTHON={python}").returncode == 0


@pytest.mark.parametrize("left", ["no pip", "no python", "dangling link", "empty"])
def test_environment_that_was_left_broken_is_made_again(tmp_path: Path, left: str) -> None:
    python, interpreter = bare(tmp_path), tmp_path / ".venv" / "bin" / "python"
    interpreter.parent.mkdir(parents=True)
    (tmp_path / ".venv" / "rest").touch()
    if left == "no pip":
        shutil.copy(python, interpreter)
    if left == "dangling link":
        interpreter.symlink_to(tmp_path / "removed")
        for extra in ("cpu", "gpu"):
            (tmp_path / ".venv" / f".ready-{extra}").touch()  # it was whole before the system's Python was removed
    assert make(tmp_path, "setup", f"PYTHON={python}").returncode == 0
    assert (tmp_path / ".venv" / "whole").exists()
    assert not (tmp_path / ".venv" / "rest").exists()


def test_whole_environment_is_kept_where_only_packages_changed(tmp_path: Path) -> None:
    python = bare(tmp_path)
    assert make(tmp_path, "setup", f"PYTHON={python}").returncode == 0
    (tmp_path / ".venv" / "rest").touch()
    os.utime(tmp_path / "pyproject.toml", (2**33, 2**33))
    assert make(tmp_path, "setup", f"PYTHON={python}").returncode == 0
    assert (tmp_path / ".venv" / "rest").exists()


def test_missing_python_is_named(tmp_path: Path) -> None:
    bare(tmp_path)
    result = make(tmp_path, "setup", "PYTHON=no such `python`")
    assert result.returncode != 0
    assert result.stderr.startswith("setup: there is no program no such `python`: make PYTHON=python3.11")
    assert not (tmp_path / ".venv").exists()
