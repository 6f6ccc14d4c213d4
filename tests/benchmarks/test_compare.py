"""Comparison of two runs: regressions are found, and noise is not."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from swiftrec.benchmarks.__main__ import main
from swiftrec.benchmarks.suite.bootstrap import Bootstrap, Estimate, sliced, t_quantile
from swiftrec.benchmarks.suite.compare import Change, changes, missing
from swiftrec.benchmarks.suite.figures import ComparedFigure, Figures
from swiftrec.benchmarks.suite.result import Result
from swiftrec.benchmarks.suite.results import PARQUET, MeasuredRun
from tests.benchmarks.results import BUNDLE, MACHINE, repeated, workload
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


P99 = "mixed: p99 at 70 % / floor"
MEAN_P99 = "all workloads and loads: p99 / floor"
CPU = ["mixed: work ratio", "mixed: server CPU / floor", "mixed: server CPU / echo"]
FOUR = ("mixed", "short", "history", "list")


def figures(base: MeasuredRun, head: MeasuredRun) -> list[ComparedFigure]:
    return Figures(base, head, Bootstrap()).all()


def compared(base: MeasuredRun, head: MeasuredRun) -> dict[str, Change]:
    return {change.figure: change for change in changes(figures(base, head))}


def worse(base: MeasuredRun, head: MeasuredRun) -> list[str]:
    return [name for name, item in compared(base, head).items() if item.is_worse]


def lacking(base: MeasuredRun, head: MeasuredRun) -> list[str]:
    return missing(figures(base, head))


def test_a_doubled_p99_is_found_and_its_median_is_not() -> None:
    result = compared(simulate(seed=1, names=FOUR), simulate(Server(tail=2.0), seed=2, names=FOUR))
    tails = [*(f"{name}: p99 at 70 % / floor" for name in FOUR), MEAN_P99]
    assert [name for name, item in result.items() if item.is_worse] == tails
    for name in tails:
        assert result[name].change == pytest.approx(1.0, abs=0.3)
        assert result[name].smallest_visible < 0.6


def test_a_doubled_p99_is_found_in_all_loads_together_where_each_alone_is_too_noisy() -> None:
    """Rounds whose p99 differ as 28, 69 and 28 ms, as on a shared machine."""
    names, noisy = (*FOUR, "hot"), Server(noise=0.4)
    base, doubled = simulate(noisy, seed=1, names=names), simulate(replace(noisy, tail=2.0), seed=2, names=names)
    result = compared(base, doubled)
    assert result["hot: p99 at 70 % / floor"].is_blind
    assert result[MEAN_P99].is_worse
    assert not compared(base, simulate(noisy, seed=2, names=names))[MEAN_P99].is_worse


@pytest.mark.parametrize("noise", [0.05, 0.5])
def test_a_server_beside_itself_is_hardly_ever_worse(noise: float) -> None:
    """By design in at most 1 of 20 comparisons; 3 of 16 would be a chance of 4 in 100 at that rate."""
    server, names = Server(noise=noise, answers=400), ("mixed", "list")
    pairs = [[simulate(server, seed + more, names=names) for more in (0, 1_000)] for seed in range(16)]
    alarms = [bool(worse(base, head)) for base, head in pairs]
    assert sum(alarms) <= 2


@pytest.mark.parametrize("noises", [(0.1,) * 5, (0.02, 0.02, 0.02, 0.02, 0.3)])
def test_false_alarms_are_bounded_where_rounds_vary_alike_and_where_they_do_not(noises: tuple[float, ...]) -> None:
    random, alarms, comparisons = np.random.default_rng(3), 0, 250
    for _ in range(comparisons):
        alarms += any(
            change.is_worse for change in changes([figure(n, noise, random) for n, noise in enumerate(noises)])
        )
    assert alarms <= 0.10 * comparisons


def test_a_t_test_on_two_rounds_as_if_they_were_many_would_be_alarmed() -> None:
    """Negative control of the bound above: with the normal distribution's quantile it would not hold."""
    random, alarms, comparisons = np.random.default_rng(3), 0, 250
    for _ in range(comparisons):
        item = figure(0, 0.1, random, rounds=2)
        assert item.base is not None
        assert item.head is not None
        alarms += (item.head.log - item.base.log) > 1.645 * np.sqrt(item.base.variance + item.head.variance)
    assert alarms > 0.10 * comparisons


def figure(number: int, noise: float, random: np.random.Generator, rounds: int = 3) -> ComparedFigure:
    """Of two runs of the same server, from one value a round."""
    base, head = (
        Bootstrap(int(random.integers(1 << 30))).from_rounds(np.exp(noise * random.standard_normal(rounds)).tolist())
        for _ in range(2)
    )
    return ComparedFigure(f"figure {number}", "cost", base, head)


def test_the_same_rows_twice_have_no_change() -> None:
    result = compared(simulate(seed=1), simulate(seed=1))
    assert {item.change for item in result.values()} == {0.0}
    assert not any(item.is_worse for item in result.values())


def test_a_figure_that_could_not_show_a_doubling_says_so() -> None:
    noisy = Server(noise=0.7)
    result = compared(simulate(noisy, seed=1), simulate(noisy, seed=2))[P99]
    assert result.is_blind
    assert result.smallest_visible > 1.0
    assert not compared(simulate(seed=1), simulate(seed=2))[P99].is_blind


def test_more_rounds_see_smaller_changes() -> None:
    few, many = (compared(simulate(seed=1, rounds=n), simulate(seed=2, rounds=n))[P99] for n in (3, 10))
    assert many.smallest_visible < 0.6 * few.smallest_visible


def test_the_rows_within_a_round_count_as_well_as_the_rounds() -> None:
    """Three rounds that agree by chance do not make a p99 of few rows exact."""
    slices = sliced(np.exp(np.random.default_rng(1).standard_normal(400)), np.linspace(0.0, 4.0, 400))
    bootstrap = Bootstrap()
    within = bootstrap.resample_slices(slices, lambda values: float(np.percentile(values, 99)))
    alike = [float(np.median(within))] * 3
    assert bootstrap.from_rounds(alike).variance == pytest.approx(0.0)
    assert bootstrap.from_rounds(alike, [within] * 3).variance > 0.01


def test_the_noise_of_few_rounds_is_that_of_all_workloads_together() -> None:
    quiet, loud = Estimate(0.0, 1e-6, 3), Estimate(0.0, 0.01, 3)
    alone, beside = (
        changes([ComparedFigure(str(n), "p99", item, item) for n, item in enumerate(ones)])[0]
        for ones in ([quiet], [quiet, loud, loud, loud])
    )
    assert alone.smallest_visible == pytest.approx(0.02)
    assert beside.smallest_visible > 0.2


def test_a_server_that_became_slower_is_a_regression() -> None:
    assert worse(simulate(seed=1), simulate(Server(server_us=1_500.0), seed=2)) == CPU


def test_a_model_that_became_slower_for_floor_and_server_is_a_regression() -> None:
    """The work ratio rises then: the floor runs the same model."""
    slower = simulate(Server(floor_us=1_500.0, server_us=1_750.0), seed=2)
    assert worse(simulate(seed=1), slower) == ["mixed: server CPU / echo", "mixed: floor / echo"]


def test_lower_rates_and_more_memory_are_regressions() -> None:
    slower = simulate(Server(speed=0.6), seed=2, memory_mb=120.0)
    assert worse(simulate(seed=1), slower) == [
        "mixed: answers/s at saturation x echo",
        "knee x echo",
        "goodput beyond the capacity x echo",
        "batches of 32 x echo",
        "memory MB",
    ]
    assert worse(simulate(seed=1), simulate(Server(speed=0.97), seed=2, memory_mb=105.0)) == []


def test_p99_of_rounds_with_too_few_answers_is_of_all_rounds_together() -> None:
    few = Server(answers=150)
    base = simulate(few, seed=1)
    assert not compared(base, simulate(few, seed=2))[P99].is_worse
    assert worse(base, simulate(Server(answers=150, tail=6.0), seed=2)) == [P99]
    assert lacking(base, simulate(seed=2)) == []
    fewer = simulate(Server(answers=90), seed=1)
    assert P99 not in compared(fewer, fewer), "270 answers are too few for a p99"


def test_a_round_without_a_single_good_answer_beyond_the_capacity_is_compared_as_noise() -> None:
    item, two = simulate(seed=1), simulate(seed=2)
    for number, (rows, point) in enumerate(two.raw.windows):
        if (point.share, point.round) == (1.15, 2):
            none = replace(rows, code=np.full_like(rows.code, 8))
            two.raw.windows[number] = (none, point.model_copy(update={"goodput": 0.0}))
    assert lacking(item, two) == []
    assert compared(item, two)["goodput beyond the capacity x echo"].is_blind


def test_a_slower_machine_is_no_regression() -> None:
    assert worse(simulate(seed=1), simulate(Server(machine=1.7), seed=2)) == []


def test_a_change_within_the_noise_is_none() -> None:
    noisy, other = (simulate(Server(server_us=us, cost_noise=0.1), seed=n) for n, us in enumerate((1_250.0, 1_350.0)))
    assert worse(noisy, other) == []


def test_what_became_faster_is_no_regression() -> None:
    result = compared(simulate(seed=1), simulate(Server(server_us=1_100.0, tail=0.5), seed=2))
    assert not any(item.is_worse for item in result.values())
    assert result["mixed: work ratio"].change > result["mixed: work ratio"].smallest_visible


def test_a_figure_that_one_run_lacks_is_missing_and_one_that_both_lack_is_not() -> None:
    broken = workload().model_copy(update={"work_ratio": repeated(0.9, float("nan"), 0.9)})
    whole, partly = simulate(workloads={"mixed": workload()}), simulate(workloads={"mixed": broken})
    assert lacking(partly, partly) == []
    assert lacking(whole, partly) == ["mixed: work ratio in the later run"]
    assert lacking(partly, whole) == ["mixed: work ratio in the earlier run"]
    two, item = simulate(names=("mixed", "list")), simulate()
    assert len(lacking(two, item)) == 7, "every figure of the workload that is not there"
    assert lacking(simulate(startup_s=repeated(1.0)), item) == ["start-up s in the earlier run"]


@pytest.mark.parametrize(("freedom", "value"), [(1, 6.314), (4, 2.132), (20, 1.725)])
def test_quantiles_of_students_t_are_those_of_the_tables(freedom: int, value: float) -> None:
    assert t_quantile(0.95, freedom) == pytest.approx(value, abs=2e-3)


def test_values_are_cut_into_slices_of_time_and_none_is_lost() -> None:
    result = sliced(np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.9, 0.0, 0.1, 0.3]))
    assert [part.tolist() for part in result] == [[2.0, 3.0], [4.0], [], [1.0]]
    assert sliced(np.array([]), np.array([])) == []
