"""Statistics of one model of one bundle, as Triton's statistics extension defines them."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field, replace
from typing import NamedTuple


class BatchSize(NamedTuple):
    """Batches of one size: their number and time."""

    batches: int
    compute_ns: int


@dataclass(slots=True)
class Statistics:
    """Counts since the bundle was loaded.

    Requests and their times are counted when a request succeeds, so that the counts always agree: successes are cache
    hits plus cache misses, and the time of requests is at least their queue time plus their compute time.
    """

    success: int = 0
    success_ns: int = 0
    failure: int = 0
    failure_ns: int = 0
    queue_ns: int = 0
    compute_ns: int = 0
    cache_hits: int = 0
    cache_hit_ns: int = 0
    last_ms: int = 0
    sizes: dict[int, BatchSize] = field(default_factory=dict)  # of the batches counted so far
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count_success(self, seconds: float, queue_s: float, compute_s: float, *, was_cached: bool = False) -> None:
        """Count a request that succeeded.

        Args:
            seconds: from its arrival to its response.
            queue_s: time it waited for its step.
            compute_s: time of the batches of models that it was part of.
            was_cached: whether no model ran for it.
        """
        with self._lock:
            self.success += 1
            self.success_ns += int(seconds * 1e9)
            self.queue_ns += int(queue_s * 1e9)
            self.compute_ns += int(compute_s * 1e9)
            self.last_ms = int(time.time() * 1e3)
            if was_cached:
                self.cache_hits += 1
                self.cache_hit_ns += int((seconds - queue_s) * 1e9)

    def count_failure(self, seconds: float) -> None:
        """Count a request that ended with an error."""
        with self._lock:
            self.failure += 1
            self.failure_ns += int(seconds * 1e9)

    def copy(self) -> Statistics:
        """A consistent copy; call it while no batches are being counted."""
        with self._lock:
            return replace(self, sizes=dict(self.sizes), _lock=threading.Lock())

    @property
    def cache_misses(self) -> int:
        """Requests for which a model ran."""
        return self.success - self.cache_hits

    @property
    def inferences(self) -> int:
        """Rows of all batches."""
        return sum(rows * size.batches for rows, size in self.sizes.items())

    @property
    def executions(self) -> int:
        """Number of batches."""
        return sum(size.batches for size in self.sizes.values())
