"""Histograms by the thousand count what was observed, also from many threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from swiftrec.server.telemetry.histogram import Histogram, HistogramFamily

_BOUNDS = (0.1, 1.0, 10.0)


@given(
    singly=st.lists(st.floats(0, 20), max_size=3_000),
    together=st.lists(st.floats(0, 20), min_size=1, max_size=1_000),
)
def test_histogram_counts_what_is_at_most_each_bound(singly: list[float], together: list[float]) -> None:
    histogram, values = Histogram(_BOUNDS), singly + together
    for value in singly:
        histogram.add(value)
    histogram.extend(together)
    counts, total = histogram.read()
    assert counts == [*(sum(value <= bound for value in values) for bound in _BOUNDS), len(values)]
    assert abs(total - sum(values)) < 1e-6 * max(1.0, total)


def test_histogram_loses_nothing_between_threads() -> None:
    histogram = Histogram(_BOUNDS)

    def observe() -> None:
        for n in range(20_000):
            histogram.add(n % 3)

    threads = [threading.Thread(target=observe) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert histogram.read()[0][-1] == 80_000


class OneFamily(Collector):
    """Shows one histogram."""

    def __init__(self, family: HistogramFamily) -> None:
        self._family = family

    def collect(self) -> Iterator[Metric]:
        yield self._family.collect()


def test_family_is_a_prometheus_histogram() -> None:
    registry = CollectorRegistry()
    family = HistogramFamily("test_seconds", "A test", _BOUNDS, ["code"])
    registry.register(OneFamily(family))
    for value in (0.05, 5.0, 50.0):
        family.labels("OK").add(value)
    text = generate_latest(registry).decode()
    assert 'test_seconds_bucket{code="OK",le="1.0"} 1.0' in text
    assert 'test_seconds_bucket{code="OK",le="+Inf"} 3.0' in text
    assert 'test_seconds_count{code="OK"} 3.0' in text
    assert family.count("OK") == 3
