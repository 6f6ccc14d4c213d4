"""The batch policy for any queue: the most urgent goes, limits hold, nothing is chosen twice, padding is worth it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.batching.cost import CostModel, Observation
from server.batching.policy import WINDOW, Limits, Reason, plan, urgency


@dataclass(frozen=True, slots=True)
class Waiting:
    tokens: int
    priority: int = 5
    deadline: float = 1e9
    arrival: float = 0.0
    due: float = 1e9


_JOBS = st.builds(Waiting, st.integers(1, 512), st.integers(1, 9), st.floats(0, 1e4, allow_nan=False), st.floats(0, 10))


def padded(jobs: list[Waiting], chosen: list[int]) -> int:
    return len(chosen) * max(jobs[n].tokens for n in chosen)


@given(st.lists(_JOBS, min_size=1, max_size=100), st.integers(1, 4_096), st.integers(1, 64), st.floats(10, 20))
def test_plan_takes_the_most_urgent_and_keeps_the_limits(
    jobs: list[Waiting], tokens: int, most: int, now: float
) -> None:
    limits = Limits(tokens=tokens, jobs=most)
    decided = plan(jobs, limits, CostModel(), now)
    first = min(range(min(len(jobs), WINDOW)), key=lambda n: urgency(jobs[n], now, limits))
    assert first in decided.chosen
    assert len(set(decided.chosen)) == len(decided.chosen) <= most
    assert padded(jobs, decided.chosen) <= max(tokens, max(jobs[n].tokens for n in decided.chosen))
    assert all(n < WINDOW for n in decided.chosen)


@given(st.lists(st.integers(1, 200), min_size=1, max_size=8), st.sampled_from([0.0, 1e-8, 1e-6]))
def test_plan_is_part_of_the_cheapest_cut(lengths: list[int], crowd: float) -> None:
    """Against every way to cut the sorted lengths, tried one by one."""
    cost, limits = CostModel(), Limits(tokens=300, jobs=4)
    grid = [(n, length) for n in (1, 2, 4) for length in (4, 16, 64, 256)]
    cost.seed(Observation(n, length, 1e-3 + 1e-4 * n * length + crowd * (n * length) ** 2) for n, length in grid)
    ordered = sorted(lengths)

    def cheapest(rest: list[int]) -> float:
        if not rest:
            return 0.0
        sizes = [n for n in range(1, min(len(rest), limits.jobs) + 1) if n == 1 or n * rest[n - 1] <= limits.tokens]
        return min(cost(n, rest[n - 1]) + cheapest(rest[n:]) for n in sizes)

    waiting, spent, batches = [Waiting(length) for length in ordered], 0.0, 0
    while waiting:
        batches += 1
        chosen = plan(waiting, limits, cost, 0.0).chosen
        spent += cost(len(chosen), max(waiting[n].tokens for n in chosen))
        waiting = [job for n, job in enumerate(waiting) if n not in chosen]
    assert cheapest(ordered) - 1e-9 <= spent <= cheapest(ordered) + 0.1 * batches * cost.batch_s + 1e-9


def test_equal_lengths_run_in_the_order_of_their_arrival() -> None:
    jobs = [Waiting(4, arrival=n / 1e3) for n in range(20)]
    assert plan(jobs, Limits(jobs=4), CostModel(), 0.05).chosen == [0, 1, 2, 3]


def test_overdue_jobs_go_before_others_of_a_better_length() -> None:
    overdue = [Waiting(10 * n, arrival=n / 1e3, due=0.01) for n in range(1, 5)]
    others = [Waiting(10, arrival=0.02) for _ in range(20)]
    decided = plan([*overdue, *others], Limits(jobs=4, tokens=1_000), CostModel(batch_s=1e-5, token_s=1e-3), 0.05)
    assert set(decided.chosen) <= {0, 1, 2, 3}


def test_plan_groups_similar_lengths() -> None:
    jobs = [Waiting(n) for n in (4, 100, 4, 100, 5)]
    decided = plan(jobs, Limits(tokens=400, jobs=8), CostModel(), 0.0)
    assert sorted(decided.chosen) == [0, 2, 4]
    assert decided.reason is Reason.CUT


def test_plan_says_why_the_batch_left() -> None:
    assert plan([Waiting(4)] * 3, Limits(), CostModel(), 0.0).reason is Reason.DRAINED
    assert plan([Waiting(4)] * 3, Limits(jobs=2), CostModel(), 0.0).reason is Reason.FULL


def test_waiting_makes_up_for_a_low_priority() -> None:
    limits = Limits(jobs=1, aging_s=0.1)
    jobs = [Waiting(4, priority=9, arrival=0.0), Waiting(4, priority=1, arrival=0.05)]
    assert plan(jobs, limits, CostModel(), 0.06).chosen == [1]
    old = [Waiting(4, priority=9, arrival=0.0), Waiting(4, priority=1, arrival=0.95)]
    assert plan(old, limits, CostModel(), 0.96).chosen == [0]


def test_earlier_deadline_goes_first_among_equals() -> None:
    jobs = [Waiting(4, deadline=9.0), Waiting(4, deadline=2.0, arrival=0.01)]
    assert plan(jobs, Limits(jobs=1), CostModel(), 0.02).chosen == [1]


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
