"""Which rows run together: each once, similar lengths beside each other, within the limits, at the least cost."""

from __future__ import annotations

import math
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from swiftrec.server.batching.cost_model import CostModel, Observation
from swiftrec.server.batching.scheduler import MIN_SPLIT_S, Limits, batch_capacity, form_batches

_LENGTHS = st.lists(st.integers(1, 512), min_size=1, max_size=80)


def model(batch_s: float, token_s: float, crowd_s: float) -> CostModel:
    """A cost model that has seen batches of these costs."""
    cost = CostModel()
    grid = [(n, length) for n in (1, 2, 4, 16) for length in (4, 16, 64, 256)]
    cost.seed(
        Observation(n, length, batch_s + token_s * n * length + crowd_s * (n * length) ** 2) for n, length in grid
    )
    return cost


_COSTS = st.builds(
    model, st.sampled_from([1e-5, 1e-3, 1e-2]), st.sampled_from([1e-6, 1e-4]), st.sampled_from([0.0, 1e-8, 1e-6])
)


def total_s(batches: list[list[int]], lengths: list[int], cost: CostModel) -> float:
    return sum(cost(len(batch), max(lengths[n] for n in batch)) for batch in batches)


@given(_LENGTHS, st.integers(1, 4_096), st.integers(1, 64), _COSTS, st.integers(1, 4))
def test_each_row_is_in_one_batch_and_batches_keep_the_limits(
    lengths: list[int], tokens: int, jobs: int, cost: CostModel, sessions: int
) -> None:
    limits = Limits(tokens=tokens, jobs=jobs)
    batches = form_batches(lengths, limits, cost, sessions)
    assert sorted(n for batch in batches for n in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[n] for n in batch)
        assert 1 <= len(batch) <= batch_capacity(longest, limits)
        assert len(batch) == 1 or len(batch) * longest <= tokens


@given(_LENGTHS, _COSTS, st.integers(1, 4))
def test_batches_are_of_similar_lengths(lengths: list[int], cost: CostModel, sessions: int) -> None:
    """They are ranges of the sorted lengths: no batch reaches into another."""
    batches = form_batches(lengths, Limits(), cost, sessions)
    spans = sorted((min(lengths[n] for n in batch), max(lengths[n] for n in batch)) for batch in batches)
    assert all(before[1] <= after[0] for before, after in pairwise(spans))


@given(st.lists(st.integers(1, 200), min_size=1, max_size=9), _COSTS, st.integers(1, 5))
def test_batches_cost_least(lengths: list[int], cost: CostModel, jobs: int) -> None:
    """Against every way to cut the sorted lengths, tried one by one."""
    limits = Limits(tokens=300, jobs=jobs)

    def cheapest(rest: list[int]) -> float:
        if not rest:
            return 0.0
        sizes = [n for n in range(1, min(len(rest), jobs) + 1) if n == 1 or n * rest[n - 1] <= limits.tokens]
        return min(cost(n, rest[n - 1]) + cheapest(rest[n:]) for n in sizes)

    found = total_s(form_batches(lengths, limits, cost), lengths, cost)
    assert math.isclose(found, cheapest(sorted(lengths)), rel_tol=1e-9)


def test_short_and_long_rows_are_kept_apart_where_padding_costs_more_than_a_batch() -> None:
    lengths, limits = [4, 100, 4, 100, 5], Limits(tokens=1_000)
    apart = form_batches(lengths, limits, CostModel(batch_s=2e-4, token_s=1e-5))
    assert sorted(map(sorted, apart)) == [[0, 2, 4], [1, 3]]
    assert len(form_batches(lengths, limits, CostModel(batch_s=1.0, token_s=1e-5))) == 1


@given(_LENGTHS, _COSTS, st.integers(2, 8))
def test_sessions_share_what_is_worth_sharing(lengths: list[int], cost: CostModel, sessions: int) -> None:
    alone = form_batches(lengths, Limits(), cost)
    shared = form_batches(lengths, Limits(), cost, sessions)
    times_s = [cost(len(batch), max(lengths[n] for n in batch)) for batch in shared]
    if len(alone) >= sessions:
        assert shared == alone
    else:
        assert len(alone) <= len(shared) <= sessions
        longest = max(range(len(shared)), key=times_s.__getitem__)
        assert len(shared) == sessions or len(shared[longest]) == 1 or times_s[longest] < MIN_SPLIT_S
    assert max(times_s) <= max(cost(len(batch), max(lengths[n] for n in batch)) for batch in alone) + 1e-12


def test_batch_that_is_short_is_not_shared() -> None:
    lengths, limits = [16] * 32, Limits()
    assert len(form_batches(lengths, limits, CostModel(1e-4, 1e-6), sessions=4)) == 1
    assert [len(batch) for batch in form_batches(lengths, limits, CostModel(1e-4, 1e-4), sessions=4)] == [8] * 4


def test_nothing_makes_no_batch() -> None:
    assert form_batches([], Limits(), CostModel(), sessions=2) == []
