"""README and docs/clients.md are true: their code blocks are run as they stand, on another port."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from swiftrec.server.models.bundle import Bundle
from tests.conftest import ROOT

_PAGES = [(ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/clients.md")]
_BLOCKS = re.findall(r"```(\w+)\n(.*?)```", "".join(_PAGES), re.DOTALL)
_SHELL = [code for language, code in _BLOCKS if language == "sh"]
_STAGES = ROOT / "artifacts" / ".stages" / "movielens-quick"


def block(word: str) -> str:
    """The one shell block that contains the word."""
    (code,) = [code for code in _SHELL if word in code]
    return str(code).strip()


def without_setup(command: str) -> str:
    """The command, with make's setup skipped: the environment that runs the tests must not change."""
    return re.sub(r"^make ", "make --no-print-directory --old-file setup ", command)


def shell(command: str) -> str:
    result = subprocess.run(without_setup(command), shell=True, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def stage_times() -> dict[str, int]:
    """When the record of each stage was written."""
    return {str(path): path.stat().st_mtime_ns for path in _STAGES.glob("*/stage.json")}


@pytest.fixture(scope="module")
def port(bundle: Bundle) -> Iterator[int]:
    """`make serve` as in README, on a free port; no stage of the export runs again, since all are up to date."""
    before = stage_times()
    command = f"{without_setup(block('make serve'))} PORT=0 METRICS_PORT=0"
    with subprocess.Popen(
        command,
        shell=True,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        ready = next(line for line in process.stdout if line.startswith("ready"))
        match = re.search(r":(\d+), metrics", ready)
        assert match
        assert process.stdout.readline().startswith("try: .venv/bin/swiftrec ask --")
        yield int(match[1])
        os.killpg(process.pid, signal.SIGTERM)
    assert stage_times() == before


def shape(output: str) -> list[str]:
    """The head of a table and the lines below it; each number as N, runs of one character as one, as widths vary."""
    lines = output.strip().splitlines()
    return [re.sub(r"(.)\1+", r"\1", re.sub(r"\d[\d.]*", "N", line)) for line in (*lines[:3], *lines[-2:])]


def test_make_ask_prints_a_table_like_the_one_in_readme(port: int) -> None:
    text = shell(f"{block('make ask')} PORT={port} COLUMNS=100")
    (printed,) = [code for language, code in _BLOCKS if language == "text" and "┃" in code]
    assert "Animation" in text
    assert shape(text) == shape(printed)


def test_shape_differs_for_another_table() -> None:
    """Negative control."""
    assert shape("┏━┓\n┃ title ┃\n┡━┩\nencode 1 ms\nb") != shape("┏━┓\n┃ item ┃\n┡━┩\nencode 2 ms\nb")


@pytest.mark.parametrize("code", [code for language, code in _BLOCKS if language == "python"])
def test_python_block_ranks(port: int, code: str) -> None:
    assert len(code.strip().splitlines()) <= 12
    command = [sys.executable, "-c", code.replace("localhost:8001", f"localhost:{port}")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert len(result.stdout.splitlines()) == 10


def test_buf_curl_block_ranks(port: int) -> None:
    assert '"title"' in shell(block("buf curl").replace("localhost:8001", f"localhost:{port}"))


def test_test_command_of_readme_is_the_one_of_ci() -> None:
    assert block("make test") == "make test"
    assert "make check test" in (ROOT / ".ci" / "run").read_text()


def test_help_lists_every_target() -> None:
    text = shell("make help")
    for target in ("setup", "proto", "check", "test", "export", "serve", "ask", "bench", "clean", "lock"):
        assert f"make {target}" in text
