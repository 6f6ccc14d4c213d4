"""Histograms that cost an append per observation; the sorting into buckets is done a thousand at a time."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

_FOLD_AT = 1_024


class Tally:
    """Observations of one label set."""

    __slots__ = ("_bounds", "_counts", "_fresh", "_lock", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = np.array(bounds)
        self._counts = np.zeros(len(bounds) + 1, dtype=np.int64)
        self._sum = 0.0
        self._fresh: deque[float] = deque()  # append and popleft are atomic
        self._lock = threading.Lock()

    def add(self, value: float) -> None:
        """Observe one."""
        self._fresh.append(value)
        if len(self._fresh) >= _FOLD_AT:
            self.read()

    def extend(self, values: Iterable[float]) -> None:
        """Observe several."""
        self._fresh.extend(values)
        if len(self._fresh) >= _FOLD_AT:
            self.read()

    def read(self) -> tuple[list[int], float]:
        """Cumulative counts, the last one of all observations, and their sum."""
        with self._lock:
            values = np.array([self._fresh.popleft() for _ in range(len(self._fresh))])
            if len(values):
                places = np.searchsorted(self._bounds, values)
                self._counts += np.bincount(places, minlength=len(self._counts))
                self._sum += float(values.sum())
            return [int(n) for n in np.cumsum(self._counts)], self._sum


class Tallies(Collector):
    """A histogram with labels, for a Prometheus registry."""

    def __init__(self, name: str, text: str, bounds: Sequence[float], labels: Sequence[str]) -> None:
        self._name, self._text, self._bounds, self._names = name, text, bounds, labels
        self._children: dict[tuple[str, ...], Tally] = {}

    def labels(self, *values: str) -> Tally:
        """The tally of one label set; keep it instead of asking again."""
        child = self._children.get(values)
        return child if child is not None else self._children.setdefault(values, Tally(self._bounds))

    def count(self, *values: str) -> int:
        """How many were observed."""
        return self.labels(*values).read()[0][-1]

    def collect(self) -> Iterator[Metric]:
        """For the scrape."""
        family = HistogramMetricFamily(self._name, self._text, labels=list(self._names))
        for values, child in list(self._children.items()):
            counts, total = child.read()
            names = [*map(str, self._bounds), "+Inf"]
            family.add_metric(values, list(zip(names, counts, strict=True)), total)
        yield family
