"""`make bench-compare` as a user runs it: two results made by hand, make's exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.runs import Server, saved, simulate
from tests.conftest import ROOT


@pytest.mark.parametrize(("server_us", "is_worse"), [(1_500.0, True), (1_260.0, False)])
def test_make_fails_on_a_regression_only(tmp_path: Path, server_us: float, is_worse: bool) -> None:
    for number, us in enumerate((1_250.0, server_us), 1):
        saved(tmp_path / "benchmarks" / "results" / f"2026-01-0{number}", simulate(Server(server_us=us), seed=number))
    ended = make(tmp_path, "bench-compare", "BASE=benchmarks/results/2026-01-01")
    assert (ended.returncode != 0) == is_worse, ended.stderr
    assert f"{3 if is_worse else 0} of 12 figures are worse by more than the smallest visible change" in ended.stdout


def test_make_without_base_says_how(tmp_path: Path) -> None:
    ended = make(tmp_path, "bench-compare")
    assert ended.returncode != 0
    assert "make bench-compare BASE=" in ended.stderr


def make(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The Makefile in another folder, whose environment is this one."""
    for name in ("pyproject.toml", "constraints.txt"):
        (folder / name).touch()
    (folder / ".venv").mkdir()
    for part in Path(sys.prefix).iterdir():
        if not part.name.startswith(".ready"):
            (folder / ".venv" / part.name).symlink_to(part)
    (folder / ".venv" / ".ready-cpu").touch()  # so that nothing is installed
    command = ["make", "-f", str(ROOT / "Makefile"), *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
