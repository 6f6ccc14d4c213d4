"""The figures of two runs: regressions are found, and noise is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from swiftrec.benchmarks.suite.bootstrap import Bootstrap, Estimate, sliced, t_quantile
from swiftrec.benchmarks.suite.compare import Change, changes, missing
from swiftrec.benchmarks.suite.figures import ComparedFigure, Figures
from swiftrec.benchmarks.suite.results import MeasuredRun
from tests.benchmarks.results import repeated, workload
from tests.benchmarks.runs import Server, simulate

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
