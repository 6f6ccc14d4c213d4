"""Histograms by the thousand count what was observed, also from many threads."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from server.telemetry.tally import Tallies, Tally

_BOUNDS = (0.1, 1.0, 10.0)


@given(st.lists(st.floats(0, 20), max_size=3_000))
def test_tally_counts_what_is_at_most_each_bound(values: list[float]) -> None:
    tally = Tally(_BOUNDS)
    for value in values[::2]:
        tally.add(value)
    tally.extend(values[1::2])
    counts, total = tally.read()
    assert counts == [*(sum(value <= bound for value in values) for bound in _BOUNDS), len(values)]
    assert abs(total - sum(values)) < 1e-6 * max(1.0, total)


def test_tally_loses_nothing_between_threads() -> None:
    tally = Tally(_BOUNDS)

    def observe() -> None:
        for n in range(20_000):
            tally.add(n % 3)

    threads = [threading.Thread(target=observe) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tally.read()[0][-1] == 80_000


def test_tallies_are_a_prometheus_histogram() -> None:
    registry = CollectorRegistry()
    tallies = Tallies("test_seconds", "A test", _BOUNDS, ["code"])
    registry.register(tallies)
    tallies.labels("OK").extend([0.05, 5.0, 50.0])
    text = generate_latest(registry).decode()
    assert 'test_seconds_bucket{code="OK",le="1.0"} 1.0' in text
    assert 'test_seconds_bucket{code="OK",le="+Inf"} 3.0' in text
    assert 'test_seconds_count{code="OK"} 3.0' in text
    assert tallies.count("OK") == 3
