"""The batch policy for any queue: the oldest goes, limits hold, nothing is chosen twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from server.batching.policy import Limits, plan


@given(st.lists(st.integers(1, 512), min_size=1, max_size=300), st.integers(1, 4_096), st.integers(1, 64))
def test_plan_takes_the_oldest_and_keeps_the_limits(lengths: list[int], tokens: int, jobs: int) -> None:
    chosen = plan(lengths, Limits(tokens=tokens, jobs=jobs))
    assert chosen[0] == 0
    assert len(set(chosen)) == len(chosen) <= jobs
    padded = len(chosen) * max(lengths[n] for n in chosen)
    assert padded <= max(tokens, lengths[0])


def test_plan_groups_similar_lengths() -> None:
    assert plan([4, 100, 4, 100, 5], Limits(tokens=20, jobs=8)) == [0, 2, 4]
