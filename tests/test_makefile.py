"""The Makefile passes variables unchanged, installs what a target needs and repairs a broken environment."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import ROOT

_RECORDER = """#!{python}
import json, os, sys
names = {names!r}
variables = {{n: v.encode(errors="surrogateescape").hex() for n, v in os.environ.items() if n.startswith(names)}}
with open("calls", "a") as file:
    file.write(json.dumps({{"argv": [os.path.basename(sys.argv[0]), *sys.argv[1:]], "env": variables}}) + "\\n")
if sys.argv[1:2] == ["export"]:
    print("artifacts/named by the export")
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


_EXTRAS = ("bench", "cpu", "dev", "export", "otel")


def makefile(folder: Path, program: str, extras: Sequence[str] = _EXTRAS) -> Path:
    """A copy of the Makefile with an environment that has `extras` and whose programs are all `program`."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name in ("python", "swiftrec"):
        (programs / name).write_text(program)
        (programs / name).chmod(0o755)
    for extra in extras:
        (folder / ".venv" / f".has-{extra}").touch()
    return folder


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """A folder where make's programs record their arguments and environment in the file `calls`."""
    return makefile(tmp_path, _RECORDER.format(python=sys.executable, names=_NAMES))


def make(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {n: v for n, v in os.environ.items() if not n.startswith(("SWIFTREC_", "MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", "-s", *arguments], cwd=folder, env=clean | environment, capture_output=True, text=True, check=False
    )


def calls(folder: Path) -> list[dict[str, str]]:
    """The environment of each program that ran, and its command line as `argv`."""
    rows = [json.loads(line) for line in (folder / "calls").read_text().splitlines()]
    return [
        {name: bytes.fromhex(value).decode() for name, value in row["env"].items()} | {"argv": " ".join(row["argv"])}
        for row in rows
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
def test_text_is_passed_on_unchanged_and_not_executed(
    recorded: Path, target: str, variable: str, received: str, text: str
) -> None:
    result = make(recorded, target, f"{variable}={text}")
    assert result.returncode == 0, result.stderr
    assert calls(recorded)[-1][received] == text.lstrip()  # make itself drops blanks before a value
    assert sorted(path.name for path in recorded.iterdir() if path.name[0] != ".") == [
        "Makefile",
        "calls",
        "constraints.txt",
        "pyproject.toml",
    ]


@pytest.mark.parametrize("text", [text for text in _NASTY if "\n" not in text])
def test_text_from_the_environment_is_passed_on(recorded: Path, text: str) -> None:
    assert make(recorded, "ask", Q=text).returncode == 0
    assert calls(recorded)[-1]["SWIFTREC_ASK_QUERY"] == text


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
def test_argument_is_passed_as_one_word(recorded: Path, target: str, variable: str, argument: str) -> None:
    for text in ("::1", "a,b", "/x/my data [é] $(touch ran) `touch ran` \"'"):
        assert make(recorded, target, f"{variable}={text}").returncode == 0
        last = json.loads((recorded / "calls").read_text().splitlines()[-1])["argv"]
        assert argument.format(text) in last
    assert not (recorded / "ran").exists()


@pytest.mark.parametrize("target", ["ask", "serve", "setup"])
def test_variables_of_the_recipes_cannot_be_set(recorded: Path, target: str) -> None:
    names = re.findall(r"^(?:override )?(\w+) :?= ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"VENV", "BIN", "EXTRAS", "LOG", "EXPORT", "pass", "needs"} <= {*names}
    for name in names:
        make(recorded, target, f"{name}=`touch ran`")
        make(recorded, "-e", target, **{name: "`touch ran`"})
        assert not (recorded / "ran").exists(), name


def test_unset_variables_pass_no_flag(recorded: Path) -> None:
    for target in ("export", "serve", "ask", "bench"):
        assert make(recorded, target).returncode == 0
    for row in calls(recorded):
        assert set(row) == {"argv"}
        assert "--address" not in row["argv"]


def test_export_names_the_bundle_that_is_served_and_measured(recorded: Path) -> None:
    for target in ("serve", "tune", "bench", "bench-peers"):
        assert make(recorded, target).returncode == 0
        assert "--bundle=artifacts/named by the export" in calls(recorded)[-1]["argv"]
    assert not [row for row in calls(recorded) if "--name" in row["argv"]]
    assert [row["argv"] for row in calls(recorded) if row["argv"].startswith("swiftrec export")] == [
        "swiftrec export --flags-from EXPORT_FLAGS_TYPED",
        "swiftrec export where --flags-from EXPORT_FLAGS_TYPED",
        *["swiftrec export --flags-from EXPORT_FLAGS_TYPED"] * 2,
    ]


def test_given_bundle_is_served_without_an_export(recorded: Path) -> None:
    assert make(recorded, "serve", "BUNDLE=x").returncode == 0
    assert make(recorded, "serve", SWIFTREC_BUNDLE="x,y").returncode == 0
    assert [row["argv"] for row in calls(recorded)] == [
        "swiftrec serve --bundle=x --flags-from SERVE_FLAGS_TYPED",
        "swiftrec serve --flags-from SERVE_FLAGS_TYPED",
    ]
    assert calls(recorded)[1]["SWIFTREC_BUNDLE"] == "x,y"


def test_export_that_fails_starts_no_server(tmp_path: Path) -> None:
    folder = makefile(tmp_path, '#!/bin/sh\necho "$1" >> calls\nexit 3\n')
    assert make(folder, "serve").returncode != 0
    assert (folder / "calls").read_text().split() == ["export"]


def test_export_runs_at_the_same_time_as_the_tests(recorded: Path) -> None:
    assert make(recorded, "test", "DATA=x", "PORT=1").returncode == 0
    assert sorted(" ".join(row["argv"].split()[:5]) for row in calls(recorded)) == [
        "python -m pytest -n 3",
        "swiftrec export --preset quick",
    ]
    assert not [name for row in calls(recorded) for name in row if name.startswith("SWIFTREC_")]


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
def test_export_decides_the_name_of_the_bundle_that_is_served(
    tmp_path: Path, flags: list[str], environment: dict[str, str], name: str
) -> None:
    where = f"cd {ROOT} && exec {sys.executable} -m swiftrec export where --flags-from EXPORT_FLAGS_TYPED"
    folder = makefile(tmp_path, f'#!/bin/sh\ncase "$1" in export) {where} ;; esac\necho "$2"\n')
    result = make(folder, "serve", *flags, **environment)
    assert result.stdout.strip() == f"--bundle=artifacts/{name}", result.stderr


@pytest.mark.parametrize("target", ["export", "serve", "report", "bench"])
def test_variables_and_flags_become_settings_of_the_export(tmp_path: Path, target: str) -> None:
    code = (
        "import os, sys; from swiftrec.export.config import ExportSettings; "
        "from swiftrec.server.flags import with_flags; "
        "s = ExportSettings(_cli_parse_args=with_flags(['--flags-from', 'EXPORT_FLAGS_TYPED'], os.environ)); "
        "print(s.preset, s.teachers, s.backbone_layers, s.data, s.checkpoint, s.name, file=sys.stderr)"
    )
    script = (
        f'#!/bin/sh\ncase "$1" in export|report) ;; *) exit 0 ;; esac\ncd {ROOT} && exec {sys.executable} -c "{code}"\n'
    )
    variables = ["PRESET=full", "TEACHERS=3", "EXPORT_FLAGS=--backbone-layers all", "DATA=/x/my data"]
    variables += ["CHECKPOINT=a/b", "NAME=n"]
    result = make(makefile(tmp_path, script), target, *variables)
    assert result.stderr == "full 3 all /x/my data a/b n\n"


_PYTHON = """#!/bin/sh
# A Python that makes environments; `$FAULT` says what fails.
echo "$*" >> {folder}/log
case "$*" in
    *version_info*) exit 0 ;;
    "-m venv .venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
    "-m pip --version") test -e .venv/whole ;;
    "-m pip install"*)
        i=0; while [ $i -lt 220 ]; do echo "line $i"; i=$((i + 1)); done
        if [ "$FAULT" = install ]; then echo "ERROR: no network" >&2; exit 1; fi
        cp "$0" .venv/bin/swiftrec; touch .venv/whole ;;
esac
"""


def bare(folder: Path) -> str:
    """The Makefile without an environment, and a fake Python; return its path."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    python = folder / "my python"
    python.write_text(_PYTHON.format(folder=folder))
    python.chmod(0o755)
    return str(python)


def test_setup_prints_one_line_and_logs_the_rest(tmp_path: Path) -> None:
    result = make(tmp_path, "setup", f"PYTHON={bare(tmp_path)}")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "installing cpu otel into .venv (details in .venv/setup.log) ...\n"
    assert "line 219" in (tmp_path / ".venv" / "setup.log").read_text()
    assert make(tmp_path, "setup").stdout == ""  # nothing to do


def test_failed_setup_shows_the_end_of_the_log_and_names_it(tmp_path: Path) -> None:
    python = bare(tmp_path)
    result = make(tmp_path, "setup", f"PYTHON={python}", FAULT="install")
    assert result.returncode != 0
    assert "ERROR: no network\nsetup: the installation failed; above is the end of .venv/setup.log: " in result.stderr
    assert "line 210" not in result.stderr
    assert make(tmp_path, "setup", f"PYTHON={python}").returncode == 0


@pytest.mark.parametrize("fault", ["no pip", "no python", "dangling link", "empty"])
def test_broken_environment_is_created_again(tmp_path: Path, fault: str) -> None:
    python, interpreter = bare(tmp_path), tmp_path / ".venv" / "bin" / "python"
    interpreter.parent.mkdir(parents=True)
    (tmp_path / ".venv" / "rest").touch()
    if fault == "no pip":
        shutil.copy(python, interpreter)
    if fault == "dangling link":
        interpreter.symlink_to(tmp_path / "removed")
        for extra in ("cpu", "otel"):
            (tmp_path / ".venv" / f".has-{extra}").touch()  # it was complete before the system's Python was removed
    assert make(tmp_path, "setup", f"PYTHON={python}").returncode == 0
    assert (tmp_path / ".venv" / "whole").exists()
    assert not (tmp_path / ".venv" / "rest").exists()


def test_environment_is_kept_when_only_packages_change(tmp_path: Path) -> None:
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


_SERVING = "cpu,otel"


@pytest.mark.parametrize(
    ("arguments", "extras"),
    [
        (["setup"], _SERVING),
        (["setup", "DEVICE=cuda"], "gpu,otel"),
        (["serve", "BUNDLE=x"], _SERVING),
        (["serve"], "cpu,export,otel"),
        (["ask"], _SERVING),
        (["tune", "BUNDLE=x"], _SERVING),
        (["export"], "cpu,export,otel"),
        (["report"], "cpu,export,otel"),
        (["bench", "BUNDLE=x"], "bench,cpu,otel"),
        (["bench"], "bench,cpu,export,otel"),
        (["bench-compare", "BASE=x"], "bench,cpu,otel"),
        (["proto"], "bench,cpu,dev,export,otel"),
        (["test"], "bench,cpu,dev,export,otel"),
        (["serve", "check", "BUNDLE=x"], "bench,cpu,dev,export,otel"),
    ],
)
def test_target_installs_the_extras_that_it_needs(tmp_path: Path, arguments: list[str], extras: str) -> None:
    make(tmp_path, *arguments, f"PYTHON={bare(tmp_path)}")
    assert installed(tmp_path) == [extras]


def test_bundle_from_the_environment_is_served_without_the_extra_export(tmp_path: Path) -> None:
    make(tmp_path, "serve", f"PYTHON={bare(tmp_path)}", SWIFTREC_BUNDLE="x")
    assert installed(tmp_path) == [_SERVING]


def test_extras_are_installed_once_and_added_to_the_same_environment(tmp_path: Path) -> None:
    python = bare(tmp_path)
    for arguments in (["serve", "BUNDLE=x"], ["ask"], ["export"], ["serve"], ["check"], ["test"], ["bench"], ["ask"]):
        make(tmp_path, *arguments, f"PYTHON={python}")
    assert installed(tmp_path) == [_SERVING, "cpu,export,otel", "bench,cpu,dev,export,otel"]
    assert (tmp_path / "log").read_text().count("-m venv") == 1


def test_extra_is_reinstalled_when_the_requirements_changed(tmp_path: Path) -> None:
    python = bare(tmp_path)
    assert make(tmp_path, "setup", f"PYTHON={python}").returncode == 0
    os.utime(tmp_path / ".venv" / ".has-cpu", (0, 0))
    assert make(tmp_path, "setup", f"PYTHON={python}").returncode == 0
    assert installed(tmp_path) == [_SERVING] * 2


def test_one_onnx_runtime_replaces_the_other(tmp_path: Path) -> None:
    python, log = bare(tmp_path), tmp_path / "log"
    for device in ("cpu", "cuda", "cuda", "cpu"):
        assert make(tmp_path, "setup", f"PYTHON={python}", f"DEVICE={device}").returncode == 0
    lines = [line for line in log.read_text().splitlines() if line.startswith(("-m pip install", "-m pip uninstall"))]
    uninstall = "-m pip uninstall --yes onnxruntime onnxruntime-gpu"
    assert [line if line == uninstall else extras_of(line) for line in lines] == [
        "cpu,otel",
        uninstall,
        "gpu,otel",
        uninstall,
        "cpu,otel",
    ]


def extras_of(line: str) -> str:
    """The extras that a command line of pip installs."""
    return line.partition(".[")[2].removesuffix("]")


def installed(folder: Path) -> list[str]:
    """The extras of each installation, by the log of the fake Python."""
    lines = (folder / "log").read_text().splitlines()
    return [extras_of(line) for line in lines if line.startswith("-m pip install")]


def test_variables_have_no_defaults_and_each_is_passed_on() -> None:
    text = (ROOT / "Makefile").read_text()
    assert "?=" not in text
    (listed,) = re.findall(r"^override VARIABLES := ((?:.*\\\n)*.*)$", text, re.MULTILINE)
    names = listed.replace("\\", "").split()
    assert len(names) > 20
    assert len(names) == len(set(names))
    passed = re.findall(r"^\$\(call pass,([^,]+),(\w+),(\w+)\)$", text, re.MULTILINE)
    used = {name for _, name, _ in passed} | set(re.findall(r"\$\(value ([A-Z_]+)\)", text))
    assert used == {*names, "SWIFTREC_BUNDLE"}
    assert len(passed) == len(set(passed))
    assert not re.findall(rf"\$[({{](?:{'|'.join(names)})[)}}]", text)  # which make would expand
