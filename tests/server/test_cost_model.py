"""What is predicted of run times: never less than nothing, and what serving measures soon counts."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swiftrec.server.batching.cost_model import CostModel, Observation, Rate


@given(st.floats(1e-5, 1e-2), st.floats(0, 1e-4), st.floats(1e-7, 1e-4), st.floats(0, 1e-7), st.floats(0, 1e-8))
def test_cost_model_finds_the_terms_that_made_its_seeds(
    batch: float, row: float, token: float, pair: float, crowd: float
) -> None:
    def true(jobs: int, length: int) -> float:
        return batch + jobs * (row + token * length + pair * length**2) + crowd * (jobs * length) ** 2

    cost = CostModel()
    cost.seed(Observation(n, length, true(n, length)) for n in (1, 2, 8, 32) for length in (4, 16, 64, 256))
    for jobs, length in ((1, 10), (5, 30), (16, 128)):
        assert cost(jobs, length) == pytest.approx(true(jobs, length), rel=0.02)


def test_cost_model_follows_what_serving_measures() -> None:
    cost = CostModel()
    cost.seed(Observation(n, length, 1e-4 * n * length) for n in (1, 8) for length in (4, 64))
    for n in range(1, 300):
        cost.observe(n % 16 + 1, 20, 3e-4 * 20 * (n % 16 + 1))
    assert cost(8, 20) == pytest.approx(3e-4 * 160, rel=0.1)


@pytest.mark.parametrize("times", [0.01, 0.3, 3.0, 50.0, 500.0])
def test_cost_model_follows_a_model_that_has_become_slower_or_faster(times: float) -> None:
    """However much: what was measured at the start gives the shape only, also of sizes that are not served now."""

    def once(jobs: int, length: int) -> float:
        return 1e-3 + 1e-5 * jobs * length

    cost = CostModel()
    cost.seed(Observation(n, length, once(n, length)) for n in (1, 2, 8, 32) for length in (4, 16, 64, 256))
    for _ in range(256):
        cost.observe(1, 16, times * once(1, 16))
    for jobs, length in ((1, 16), (8, 16), (4, 128)):
        assert cost(jobs, length) == pytest.approx(times * once(jobs, length), rel=0.05)


@given(st.lists(st.tuples(st.integers(1, 64), st.integers(1, 256), st.floats(1e-6, 10)), min_size=1, max_size=40))
def test_cost_model_never_predicts_less_than_nothing(seen: list[tuple[int, int, float]]) -> None:
    cost = CostModel()
    cost.seed(Observation(*one) for one in seen)
    assert cost(1, 1) >= 0
    assert cost(64, 256) >= cost(1, 256) >= 0


@given(st.integers(1, 128), st.integers(1, 64), st.sampled_from([0.0, 1e-9, 1e-7]))
def test_share_of_a_row_is_that_of_the_cheapest_batch(length: int, room: int, crowd: float) -> None:
    cost = CostModel()
    grid = [(n, tokens) for n in (1, 2, 8, 32) for tokens in (4, 16, 64, 256)]
    cost.seed(Observation(n, tokens, 1e-3 + 1e-5 * n * tokens + crowd * (n * tokens) ** 2) for n, tokens in grid)
    cheapest = min(cost(n, length) / n for n in range(1, room + 1))
    assert cheapest * 0.9 <= cost.job_s(length, room) <= cheapest * (1 + 1e-9)


@given(st.floats(1e-7, 1.0), st.floats(1e-7, 1.0), st.lists(st.integers(1, 300), min_size=60, max_size=80))
def test_rate_follows_what_is_measured(first_s: float, unit_s: float, works: list[int]) -> None:
    rate = Rate(first_s)
    for units in works:
        rate.observe(units, units * unit_s)
    low, high = sorted((first_s, unit_s))
    assert low * (1 - 1e-9) <= rate(1) <= high * (1 + 1e-9)
    assert rate(10) == pytest.approx(10 * unit_s, rel=0.01, abs=0.02 * first_s)


@given(st.floats(0, 1e-3))
def test_step_without_work_of_a_kind_says_nothing_of_its_rate(overhead_s: float) -> None:
    """For as long as there is none: a rate that fades away would predict without bounds."""
    rate = Rate(5e-5)
    rate.observe(10, 10 * 5e-5)
    for _ in range(10_000):
        rate.observe(0, overhead_s)
    assert rate(1) == pytest.approx(5e-5)
    rate.observe(10, 10 * 5e-5)
    assert math.isfinite(rate(1))
