"""`swiftrec COMMAND`: program names, versions, error prefixes, unknown commands and missing packages."""

from __future__ import annotations

import ast
import logging
import os
import re
import subprocess
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NoReturn

import pytest

from swiftrec import __main__ as command
from swiftrec.export.stages.order import STAGES
from tests.conftest import ROOT

_VERSION = f"swiftrec {version('swiftrec')}\n"
# Names that exist only in a checkout of the repository.
_CHECKOUT = re.compile(r"\bmake (setup|export|serve|tune|report|ask|bench)\b|-e '\.\[|python -m (?!swiftrec\.diagram)")
_NAMES = ["serve", "tune", "probe", "ask", "export", "doctor", "report", "bench"]


@pytest.fixture(autouse=True)
def _process_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands set up logging and threads for their process, and the server ends it at once."""

    def leave(code: int) -> NoReturn:
        raise SystemExit(code)

    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(logging, "disable", lambda _level: None)
    monkeypatch.setattr(logging, "shutdown", lambda: None)
    monkeypatch.setattr("swiftrec.server.__main__.set_up_logs", lambda *_: None)
    monkeypatch.setattr("swiftrec.export.__main__.prepare_threads", lambda: None)
    for name in list(os.environ):
        if name.startswith("SWIFTREC_"):
            monkeypatch.delenv(name)


def run(*arguments: str) -> int:
    """The exit code, however the command ends."""
    try:
        return command.main([*arguments])
    except SystemExit as ended:
        return int(ended.code or 0)


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for flags in ([], ["-h"], ["--help"]):
        assert run(*flags) == 0
        lines = capsys.readouterr().out.splitlines()
        listed = [line.split()[0] for line in lines[lines.index("commands:") + 1 :] if line.startswith("  ")]
        assert listed == _NAMES


@pytest.mark.parametrize("name", _NAMES)
def test_help_of_a_command_names_it_as_the_program(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(name, "--help") == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"usage: swiftrec {name} ")
    assert "python -m" not in printed


def test_help_of_export_lists_its_other_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("export", "--help") == 0
    listed = capsys.readouterr().out.partition("Other commands:")[2].partition("options:")[0]
    for name in (
        "export teacher",
        "export seeds",
        "export planted",
        "export targets",
        "export where",
        "doctor",
        "report",
    ):
        assert f"swiftrec {name} " in listed


@pytest.mark.parametrize(
    ("arguments", "more"), [(["report"], {"as-json", "json"}), (["export", "targets"], {"checkpoint"})]
)
def test_help_of_report_and_targets_has_only_the_flags_that_they_use(
    arguments: list[str], more: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments, "--help") == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"usage: swiftrec {' '.join(arguments)} ")
    listed = {
        flag for flag in re.findall(r"--([a-z-]+)", printed.partition("options:")[2]) if not flag.startswith("no-")
    }
    assert listed == {"name", "artifacts", "preset", "data", "protocol", "help", "version", *more}


def test_report_finds_the_bundle_by_the_flags_of_its_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("report", "--artifacts", str(tmp_path), "--epochs", "3", "--students", "bert1", "--name", "mine") == 2
    assert f"swiftrec report: {tmp_path}/mine" in capsys.readouterr().err


def test_export_itself_has_no_flag_for_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("export", "--help") == 0
    assert "json" not in capsys.readouterr().out.partition("options:")[0]
    assert run("export", "seeds", "--help") == 0
    assert "--json" in capsys.readouterr().out


def test_help_of_export_names_every_stage(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("export", "--help") == 0
    listed = " ".join(capsys.readouterr().out.split())
    assert f"one of {', '.join(stage.name for stage in STAGES)}, or a command above" in listed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["finetun"], "unknown stage or command finetun: did you mean swiftrec export finetune?"),
        (["--seed", "3", "target"], "unknown stage or command target: did you mean swiftrec export targets?"),
        (["xyzzy"], "unknown stage or command xyzzy: swiftrec export --help lists the stages and commands"),
        (["--seed", "3", "seeds"], "seeds comes after a flag: put it first, as in swiftrec export seeds"),
    ],
)
def test_unknown_stage_names_the_nearest_stage_or_command(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("export", *arguments) == 2
    assert capsys.readouterr().err == f"swiftrec export: {message}\n"


@pytest.mark.parametrize("name", ["", *_NAMES])
def test_version_is_printed_by_every_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*filter(None, [name]), "--version") == 0
    assert capsys.readouterr().out == _VERSION


@pytest.mark.parametrize(
    "arguments",
    [
        ["serve", "--bundle", "no/such/folder"],
        ["tune", "--bundle", "no/such/folder"],
        ["probe", "--bundle", "no/such/folder"],
        ["ask", "--address", "nowhere"],
        ["export", "--seed", "x"],
        ["doctor", "no/such/folder"],
        ["report", "--artifacts", "no/such/folder"],
    ],
)
@pytest.mark.parametrize("extra", [[], ["--no-such-flag"]])
def test_error_begins_with_the_command(
    arguments: list[str], extra: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments, *extra) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"swiftrec {arguments[0]}: ")
    assert err.count("\n") == 1
    assert ("--no-such-flag" in err) == bool(extra)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serv"], "swiftrec: unknown command serv: did you mean swiftrec serve?\n"),
        (["exprot", "--data", "x"], "swiftrec: unknown command exprot: did you mean swiftrec export?\n"),
        (["xyzzy"], "swiftrec: unknown command xyzzy: swiftrec --help lists the commands\n"),
    ],
)
def test_unknown_command_names_the_nearest(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    assert capsys.readouterr().err == message


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("serve", "onnxruntime", "cpu"),
        ("export", "scipy", "export"),
        ("export", "pyarrow", "export"),
        ("bench", "pyarrow", "bench"),
        ("bench", "scipy", "export"),
        ("bench", "hdrh", "bench"),
        ("export", "onnx_ir", "export"),
        ("export", "onnx", "export"),
        ("export", "of_no_extra", "export"),
    ],
)
def test_missing_package_is_one_sentence_with_the_remedy(
    name: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_arguments: list[str]) -> NoReturn:
        raise ModuleNotFoundError(f"No module named '{package}.part'", name=f"{package}.part")

    monkeypatch.setattr("pkgutil.resolve_name", lambda _name: fail)
    assert run(name) == 2
    message = f"swiftrec {name}: the Python package {package} is not installed: pip install 'swiftrec[{extra}]'\n"
    assert capsys.readouterr().err == message


def test_missing_package_is_reported_by_sources_that_are_not_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def not_installed(_name: str) -> NoReturn:
        raise PackageNotFoundError

    def fail(_arguments: list[str]) -> NoReturn:
        raise ModuleNotFoundError(name="pyarrow")

    monkeypatch.setattr(command, "requires", not_installed)
    monkeypatch.setattr("pkgutil.resolve_name", lambda _name: fail)
    assert run("bench") == 2
    assert "pip install 'swiftrec[bench]'" in capsys.readouterr().err


def test_missing_module_of_swiftrec_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_arguments: list[str]) -> NoReturn:
        raise ModuleNotFoundError(name="swiftrec.no_such_module")

    monkeypatch.setattr("pkgutil.resolve_name", lambda _name: fail)
    with pytest.raises(ModuleNotFoundError):
        command.main(["export"])


class Absent(MetaPathFinder):
    """Makes packages impossible to import, as where they are not installed."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if fullname.partition(".")[0] in {"torch", "scipy", "pyarrow", "plotly", "hdrh", "transformers"}:
            raise ModuleNotFoundError(name=fullname)
        return None


def test_server_and_client_need_no_extra_but_the_runtime() -> None:
    code = "import sys; from tests.test_command import Absent; sys.meta_path.insert(0, Absent()); "
    for name in ("serve", "tune", "probe", "ask", "bench"):
        program = f"{code}from swiftrec.__main__ import main; sys.exit(main(['{name}', '--help']))"
        ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
        assert (ended.returncode, ended.stderr) == (0, ""), name


def test_module_is_the_same_command() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "swiftrec", "serv"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (2, "swiftrec: unknown command serv: did you mean swiftrec serve?\n")


@pytest.mark.parametrize("arguments", [["bench", "--bundle", "no/such/folder"], ["bench", "load"]])
def test_error_of_bench_begins_with_the_tool(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 2
    program = " ".join(word for word in arguments[:2] if not word.startswith("-"))
    assert capsys.readouterr().err.startswith(f"swiftrec {program}: ")


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [("lod", "did you mean swiftrec bench load?"), ("xyzzy", "swiftrec bench --help lists the tools")],
)
def test_unknown_tool_names_the_nearest(name: str, suggestion: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bench", name) == 2
    assert capsys.readouterr().err == f"swiftrec bench: unknown tool {name}: {suggestion}\n"


def checkout_names(source: str) -> list[str]:
    """The strings of a module, docstrings among them, that name a command of the checkout."""
    nodes = ast.walk(ast.parse(source))
    return [
        node.value
        for node in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and _CHECKOUT.search(node.value)
    ]


def test_messages_name_commands_that_a_wheel_installs() -> None:
    generated = {Path("benchmarks/suite/readme.py")}  # writes the documents of the repository, which name make
    wrong = {}
    for folder in ("server", "export", "benchmarks", "swiftrec"):
        for path in (ROOT / folder).rglob("*.py"):
            strings = checkout_names(path.read_text(encoding="utf-8"))
            if strings and path.relative_to(ROOT) not in generated:
                wrong[str(path)] = strings
    assert wrong == {}


@pytest.mark.parametrize("message", ["run make export", "pip install -e '.[cpu,bench]'", "python -m export report"])
def test_message_with_a_name_of_the_checkout_is_found(message: str) -> None:
    """Negative control."""
    assert checkout_names(f'raise ValueError("{message}")') == [message]


@pytest.mark.parametrize("name", ["serve", "tune", "probe", "ask", "export", "doctor", "report", "bench load"])
def test_help_shows_plain_types_and_no_empty_defaults(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*name.split(), "--help") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert [leak for leak in ("null", "list[", "(default: )", "None") if leak in printed] == []


def test_help_of_probe_lists_only_what_it_uses(capsys: pytest.CaptureFixture[str]) -> None:
    run("probe", "--help")
    probe = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    run("serve", "--help")
    serve = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    assert {"--bundle", "--device", "--variant", "--parts"} < probe
    assert not probe & {"--port", "--tls-cert", "--max-calls", "--queue-budget-ms", "--index"}
    assert {"--port", "--tls-cert", "--max-calls"} < serve
