"""Histograms whose observations are buffered, so that recording one costs an append."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

import numpy as np
from prometheus_client.core import HistogramMetricFamily

R = TypeVar("R")
_FOLD_AT = 1_024


class Buffer(Generic[R]):
    """A buffer of records. Any thread may add; one thread at a time aggregates them, in order (`fold`)."""

    def __init__(self) -> None:
        self._records: deque[R] = deque()  # append and popleft are atomic
        self._lock = threading.Lock()

    def add(self, record: R) -> None:
        """Add a record."""
        self._records.append(record)
        if len(self._records) >= _FOLD_AT:
            with self.folded():
                pass

    @contextmanager
    def folded(self) -> Iterator[None]:
        """Aggregate all records so far, and no others until the end of the block."""
        with self._lock:
            if records := [self._records.popleft() for _ in range(len(self._records))]:
                self.fold(records)
            yield

    def fold(self, records: list[R]) -> None:
        """Aggregate records."""
        raise NotImplementedError


class Histogram(Buffer[float]):
    """The histogram of one label set."""

    def __init__(self, bounds: Sequence[float]) -> None:
        super().__init__()
        self._bounds = np.array(bounds)
        self._counts = np.zeros(len(bounds) + 1, dtype=np.int64)
        self._sum = 0.0

    def extend(self, values: list[float]) -> None:
        """Add one or more observations at once."""
        with self.folded():
            self.fold(values)

    def read(self) -> tuple[list[int], float]:
        """The cumulative count of each bucket, the last one that of all observations, and their sum."""
        with self.folded():
            return [int(n) for n in np.cumsum(self._counts)], self._sum

    def fold(self, records: list[float]) -> None:
        """Sort observations into the buckets."""
        values = np.array(records)
        self._counts += np.bincount(np.searchsorted(self._bounds, values), minlength=len(self._counts))
        self._sum += float(values.sum())


class HistogramFamily:
    """A Prometheus histogram with labels."""

    def __init__(self, name: str, text: str, bounds: Sequence[float], labels: Sequence[str]) -> None:
        self._name, self._text, self._bounds, self._names = name, text, bounds, labels
        self._children: dict[tuple[str, ...], Histogram] = {}

    def labels(self, *values: str) -> Histogram:
        """The histogram of one label set; callers on a hot path keep it."""
        child = self._children.get(values)
        return child if child is not None else self._children.setdefault(values, Histogram(self._bounds))

    def count(self, *values: str) -> int:
        """The number of observations of one label set."""
        return self.labels(*values).read()[0][-1]

    def collect(self) -> HistogramMetricFamily:
        """All label sets, for a scrape."""
        family = HistogramMetricFamily(self._name, self._text, labels=list(self._names))
        for values, child in list(self._children.items()):
            counts, total = child.read()
            names = [*map(str, self._bounds), "+Inf"]
            family.add_metric(values, list(zip(names, counts, strict=True)), total)
        return family
