"""Times of a request: what it waited and what ran for it never exceed what it took."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.telemetry.statistics import ModelTime, Statistics, longest


def test_texts_side_by_side_count_as_the_one_that_took_longest() -> None:
    time = ModelTime()
    time.keep_longest(10.0, 11.0, 12.0)
    time.keep_longest(10.0, 14.0, 15.0)
    time.keep_longest(10.0, 10.5, 11.0)
    assert (time.queue_s, time.compute_s, time.has_run) == (4.0, 1.0, True)


def test_job_that_another_request_started_counts_from_when_this_one_joined_it() -> None:
    time = ModelTime()
    time.keep_longest(10.0, 8.0, 11.0)
    assert (time.queue_s, time.compute_s) == (0.0, 1.0)
    ended_before = ModelTime()
    ended_before.keep_longest(10.0, 8.0, 9.0)
    assert (ended_before.queue_s, ended_before.compute_s, ended_before.has_run) == (0.0, 0.0, True)


_MOMENTS = st.integers(0, 1_000).map(lambda n: n / 64)  # exact in binary, so that no sum is rounded


@given(_MOMENTS, st.lists(st.tuples(_MOMENTS, _MOMENTS), min_size=1), st.tuples(_MOMENTS, _MOMENTS, _MOMENTS))
def test_queue_and_compute_are_never_more_than_the_request(
    submitted: float, runs: list[tuple[float, float]], ranking: tuple[float, float, float]
) -> None:
    time, ended = ModelTime(), submitted
    for started, seconds in runs:
        time.keep_longest(submitted, started, started + seconds)
        ended = max(ended, started + seconds)
    assert time.queue_s + time.compute_s <= ended - submitted
    gap, wait, seconds = ranking
    time.add(ended + gap, ended + gap + wait, ended + gap + wait + seconds)
    assert time.queue_s + time.compute_s <= ended + gap + wait + seconds - submitted


def test_request_of_several_parts_takes_the_time_of_the_longest() -> None:
    parts = [ModelTime(1.0, 2.0, True), ModelTime(5.0, 0.5, True), ModelTime()]
    assert longest(parts) is parts[1]


def test_hits_and_misses_are_the_successes() -> None:
    counts = Statistics()
    counts.succeeded(3.0, ModelTime(1.0, 0.5, True), None)
    counts.succeeded(1.0, ModelTime(), 0.25)
    counts.failed(7.0)
    assert (counts.success, counts.cache_hits, counts.cache_misses, counts.failure) == (2, 1, 1, 1)
    assert counts.request_us == pytest.approx(4e6)
    assert (counts.queue_us, counts.compute_us, counts.cache_hit_ns) == (1_000_000, 500_000, 250_000_000)
