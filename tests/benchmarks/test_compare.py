"""`swiftrec bench compare`: which runs are compared, what is printed, and the exit code."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from swiftrec.benchmarks.__main__ import main
from swiftrec.benchmarks.suite.result import Result
from swiftrec.benchmarks.suite.results import PARQUET
from tests.benchmarks.results import BUNDLE, MACHINE
from tests.benchmarks.runs import Server, saved, simulate
from tests.conftest import ROOT

SLOWER = Server(server_us=1_500.0)


def compare(base: Path, head: Path) -> int:
    return main(["compare", "--base", str(base), "--head", str(head)])


def compare_newest(base: Path) -> int:
    return main(["compare", "--base", str(base), "--results", str(base.parent)])


def test_regression_is_exit_code_1_and_stands_in_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, head = saved(tmp_path / "a", simulate(seed=1)), saved(tmp_path / "b", simulate(SLOWER, seed=2))
    assert compare(base, head) == 1
    output = capsys.readouterr().out
    (row,) = [line for line in output.splitlines() if line.startswith("mixed: work ratio")]
    assert row.split()[-1] == "WORSE"
    assert "-17." in row
    assert "3 of 12 figures are worse by more than the smallest visible change" in output
    changes = json.loads(output.splitlines()[-1])["changes"]
    worse = [change["figure"] for change in changes if change["is_worse"]]
    assert worse == ["mixed: work ratio", "mixed: server CPU / floor", "mixed: server CPU / echo"]
    assert all(change["smallest_visible"] > 0 for change in changes)


def test_a_doubled_p99_is_exit_code_1_from_the_files_of_two_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, head = saved(tmp_path / "a", simulate(seed=1)), saved(tmp_path / "b", simulate(Server(tail=2.0), seed=2))
    assert compare(base, head) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if line.endswith("WORSE")]
    assert [line.partition("  ")[0] for line in lines] == ["mixed: p99 at 70 % / floor"]


def test_a_noisy_figure_says_that_it_could_not_show_a_doubling(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noisy = Server(noise=0.7)
    base, head = (saved(tmp_path / name, simulate(noisy, seed)) for seed, name in enumerate("ab"))
    assert compare(base, head) == 0
    output = capsys.readouterr().out
    (row,) = [line for line in output.splitlines() if line.startswith("mixed: p99 at 70 % / floor")]
    assert row.endswith("too noisy")
    assert "too noisy to show a doubling, or of a rate a halving: measure both runs with more --rounds" in output


def test_a_slower_search_raises_the_work_ratio_and_is_exit_code_1(tmp_path: Path) -> None:
    slower = simulate(Server(floor_us=1_500.0, server_us=1_750.0), seed=2)
    base, head = saved(tmp_path / "a", simulate(seed=1)), saved(tmp_path / "b", slower)
    assert compare(base, head) == 1
    assert compare(base, saved(tmp_path / "c", simulate(seed=3))) == 0


def test_a_workload_that_is_gone_is_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = simulate(seed=1, names=("mixed", "list"))
    base, head = saved(tmp_path / "a", both), saved(tmp_path / "b", simulate(seed=2))
    assert compare(base, head) == 1
    output = capsys.readouterr().out
    assert "0 of 12 figures are worse" in output
    assert "missing: list: work ratio in the later run" in output


def test_what_may_explain_a_change_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = simulate(seed=1)
    settings = base.result.settings | {"seed": 8}
    other = simulate(seed=2, machine=MACHINE | {"onnxruntime": "9"}, settings=settings)
    assert compare(saved(tmp_path / "a", base), saved(tmp_path / "b", other)) == 0
    output = capsys.readouterr().out
    for line in ("machine onnxruntime differs", "settings seed differs"):
        assert f"note: {line}" in output


def test_the_other_way_round_is_better_and_exit_code_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, head = saved(tmp_path / "a", simulate(seed=1)), saved(tmp_path / "b", simulate(SLOWER, seed=2))
    assert compare(head, base) == 0
    assert "better" in capsys.readouterr().out


def test_without_a_head_the_newest_is_compared(tmp_path: Path) -> None:
    base = saved(tmp_path / "2026-01-01", simulate(seed=1))
    saved(tmp_path / "2026-01-03", simulate(SLOWER, seed=3))
    saved(tmp_path / "2026-01-02", simulate(seed=2))
    assert compare_newest(base) == 1


def test_newer_runs_that_cannot_be_compared_are_passed_over_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = saved(tmp_path / "2026-01-01", simulate(seed=1))
    saved(tmp_path / "2026-01-02", simulate(SLOWER, seed=2))
    settings = simulate().result.settings
    changed: dict[str, dict[str, Any]] = {
        "size: full and smoke": {"settings": settings | {"size": "smoke"}},
        "the later run is partial: it was interrupted": {"is_partial": True, "reason": "it was interrupted"},
        "the later run is not valid: the client": {"failures": ["the client"]},
        "bundle: b version 1 (export key 5f3a) and b version 2 (export key 77)": {
            "bundle": BUNDLE | {"version": "2", "export_key": "77"}
        },
        "older than the base": {"started": "2025-12-31T00:00:00Z"},
    }
    for number, facts in enumerate(changed.values(), 3):
        saved(tmp_path / f"2026-01-0{number}", simulate(seed=number, **facts))
    assert compare_newest(base) == 1, "the slower run is compared"
    said = capsys.readouterr()
    assert "3 of 12 figures are worse" in said.out
    for number, reason in enumerate(changed, 3):
        assert f"ignored: {tmp_path / f'2026-01-0{number}' / Result.file}: {reason}" in said.err


def test_a_run_is_not_compared_with_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without this the newest run as BASE would always pass."""
    base = saved(tmp_path / "2026-01-01", simulate())
    assert compare_newest(base) == 2
    assert main(["compare", "--base", str(base / Result.file), "--results", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("no run to compare with") == 2
    assert compare(base, base / Result.file) == 2
    assert "are one run" in capsys.readouterr().err


@pytest.mark.parametrize(
    "changed",
    [
        {"is_partial": True, "reason": "partial: it was interrupted"},
        {"failures": ["the client"]},
        {"bundle": BUNDLE | {"export_key": "other"}},
    ],
)
def test_a_run_that_is_partial_not_valid_or_of_another_bundle_is_not_compared(
    tmp_path: Path, changed: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    base, head = saved(tmp_path / "a", simulate()), saved(tmp_path / "b", simulate(**changed))
    assert compare(base, head) == 2
    assert compare(head, base) == 2
    assert capsys.readouterr().err.count("swiftrec bench compare: the runs cannot be compared: ") == 2


def test_a_partial_base_is_named_and_no_other_run_is_blamed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = saved(tmp_path / "2026-01-01", simulate(is_partial=True, reason="it was interrupted"))
    saved(tmp_path / "2026-01-02", simulate(seed=2))
    assert compare_newest(base) == 2
    said = capsys.readouterr().err
    assert said == f"swiftrec bench compare: {base}: the run is partial: it was interrupted: give another --base\n"


def test_a_result_without_its_raw_rows_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, head = saved(tmp_path / "a", simulate(seed=1)), saved(tmp_path / "b", simulate(seed=2))
    (head / PARQUET).unlink()
    assert compare(base, head) == 2
    assert f"{head / PARQUET}: missing, so latencies cannot be compared" in capsys.readouterr().err


def test_a_result_of_an_unknown_bundle_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = simulate(bundle={"name": "b", "version": "1", "variant": "int8"})
    base, head = saved(tmp_path / "a", old), saved(tmp_path / "b", simulate(seed=2))
    assert compare(base, head) == 2
    assert f"{base / Result.file}: its bundle is unknown" in capsys.readouterr().err


def test_no_base_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--base", ""]) == 2
    assert "swiftrec bench compare --base " in capsys.readouterr().err


def test_runs_of_one_round_are_refused_and_a_workload_with_one_round_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    item, other = (saved(tmp_path / f"one-{seed}", simulate(seed=seed, rounds=1)) for seed in (1, 2))
    assert compare(item, other) == 2
    assert "no workload has two rounds or more in one of the runs" in capsys.readouterr().err
    short = simulate(rounds=1).result.workloads["mixed"]
    folders = []
    for seed in (1, 2):
        run = simulate(seed=seed)
        run.result.workloads["short"] = short
        folders.append(saved(tmp_path / f"two-{seed}", run))
    assert compare(*folders) == 0
    assert _not_compared(capsys) == ["short"]


def test_a_latency_of_too_few_answers_in_both_runs_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = [
        saved(tmp_path / f"few-{n}", simulate(Server(answers=90, tail=tail), n)) for n, tail in enumerate((1.0, 2.0))
    ]
    assert compare(*few) == 0
    assert _not_compared(capsys) == ["mixed: p50 at 70 % / floor", "mixed: p99 at 70 % / floor"]
    whole = [saved(tmp_path / f"whole-{seed}", simulate(seed=seed)) for seed in (1, 2)]
    assert compare(*whole) == 0
    assert _not_compared(capsys) == []


def _not_compared(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What the comparison says that it leaves out for want of rounds or answers."""
    lines = re.findall(r"^not compared: (.*): too few rounds or responses in both runs$", capsys.readouterr().out, re.M)
    return [str(line) for line in lines]


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
    assert "swiftrec bench compare --base " in ended.stderr


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
