"""`python -m benchmarks compare` from folder to exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.suite import store
from benchmarks.suite.result import Result
from tests.results import MACHINE, result, workload

SLOWER = {"mixed": workload(server=1_500.0)}


def saved(folder: Path, found: Result) -> Path:
    folder.mkdir(parents=True)
    store.save(folder, found)
    return folder


def compare(base: Path, head: Path) -> int:
    return main(["compare", "--base", str(base), "--head", str(head)])


def test_regression_is_exit_code_1_and_stands_in_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, head = saved(tmp_path / "a", result()), saved(tmp_path / "b", result(workloads=SLOWER))
    assert compare(base, head) == 1
    out = capsys.readouterr().out
    (row,) = [line for line in out.splitlines() if line.startswith("mixed: work ratio")]
    assert row.split()[-1] == "WORSE"
    assert "-16.7%" in row
    assert "3 of 6 figures are worse beyond the noise" in out
    worse = [one["figure"] for one in json.loads(out.splitlines()[-1])["changes"] if one["is_worse"]]
    assert worse == ["mixed: work ratio", "mixed: server CPU / floor", "mixed: server CPU / echo"]


def test_a_slower_search_raises_the_work_ratio_and_is_exit_code_1(tmp_path: Path) -> None:
    slower = result(workloads={"mixed": workload(floor=1_500.0, server=1_750.0)})
    base, head = saved(tmp_path / "a", result()), saved(tmp_path / "b", slower)
    assert compare(base, head) == 1
    assert compare(base, saved(tmp_path / "c", result())) == 0


def test_a_workload_that_is_gone_is_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = result(workloads={"mixed": workload(), "list": workload()})
    base, head = saved(tmp_path / "a", both), saved(tmp_path / "b", result())
    assert compare(base, head) == 1
    out = capsys.readouterr().out
    assert "0 of 6 figures are worse" in out
    assert "missing: list: work ratio in the later run" in out


def test_what_may_explain_a_change_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = {"machine": MACHINE | {"onnxruntime": "9"}, "settings": {"size": "full", "seed": 8}}
    other = result(**facts, bundle={"name": "b", "variant": "int8", "version": "2"})
    assert compare(saved(tmp_path / "a", result()), saved(tmp_path / "b", other)) == 0
    out = capsys.readouterr().out
    for line in ("bundle version differs: None and 2", "machine onnxruntime differs", "settings seed differs"):
        assert f"note: {line}" in out


def test_the_other_way_round_is_better_and_exit_code_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, head = saved(tmp_path / "a", result()), saved(tmp_path / "b", result(workloads=SLOWER))
    assert compare(head, base) == 0
    assert "better" in capsys.readouterr().out


def test_without_a_head_the_newest_is_compared(tmp_path: Path) -> None:
    base = saved(tmp_path / "2026-01-01", result())
    saved(tmp_path / "2026-01-03", result(workloads=SLOWER))
    saved(tmp_path / "2026-01-02", result())
    assert main(["compare", "--base", str(base), "--results", str(tmp_path)]) == 1


def test_a_run_is_not_compared_with_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without this the newest run as BASE would always pass."""
    base = saved(tmp_path / "2026-01-01", result())
    assert main(["compare", "--base", str(base), "--results", str(tmp_path)]) == 2
    assert main(["compare", "--base", str(base / store.RESULT), "--results", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("they are one run") == 2


@pytest.mark.parametrize(
    "changed", [{"is_partial": True, "reason": "partial: it was interrupted"}, {"failures": ["the client"]}]
)
def test_a_run_that_is_partial_or_not_valid_is_not_compared(
    tmp_path: Path, changed: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    base, head = saved(tmp_path / "a", result()), saved(tmp_path / "b", result(**changed))
    assert compare(base, head) == 2
    assert compare(head, base) == 2
    assert capsys.readouterr().err.count("benchmarks compare: the runs cannot be compared: not ") == 2


def test_no_base_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--base", ""]) == 2
    assert "make bench-compare BASE=" in capsys.readouterr().err
