"""Statistics of one model of one bundle since it was loaded, as Triton's statistics extension counts them.

Requests and their times are counted when a request succeeds, so that the counts always agree: successes are cache hits
plus cache misses, and the time of requests is at least their queue time plus their compute time.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field, replace


@dataclass(slots=True)
class BatchSize:
    """Batches of one size."""

    count: int = 0
    compute_ns: int = 0


@dataclass(slots=True)
class Statistics:
    """Counts and cumulative times. `inferences`, `executions` and `sizes` are of batches, all others of requests."""

    success: int = 0
    success_ns: int = 0
    failure: int = 0
    failure_ns: int = 0
    queue_ns: int = 0
    compute_ns: int = 0
    cache_hits: int = 0
    cache_hit_ns: int = 0
    last_ms: int = 0
    inferences: int = 0
    executions: int = 0
    sizes: dict[int, BatchSize] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def succeeded(self, seconds: float, queue_s: float, compute_s: float, *, was_cached: bool = False) -> None:
        """Count a request that was answered.

        Args:
            seconds: from its arrival to its response.
            queue_s: that it waited for its step.
            compute_s: that batches of models ran for it.
            was_cached: whether no model ran for it.
        """
        with self.lock:
            self.success += 1
            self.success_ns += int(seconds * 1e9)
            self.queue_ns += int(queue_s * 1e9)
            self.compute_ns += int(compute_s * 1e9)
            self.last_ms = int(time.time() * 1e3)
            if was_cached:
                self.cache_hits += 1
                self.cache_hit_ns += int((seconds - queue_s) * 1e9)

    def failed(self, seconds: float) -> None:
        """Count a request that ended with an error."""
        with self.lock:
            self.failure += 1
            self.failure_ns += int(seconds * 1e9)

    def ran(self, jobs: int, seconds: float) -> None:
        """Count a batch."""
        with self.lock:
            self.inferences += jobs
            self.executions += 1
            size = self.sizes.setdefault(jobs, BatchSize())
            size.count += 1
            size.compute_ns += int(seconds * 1e9)

    def snapshot(self) -> Statistics:
        """A copy whose figures are all of one moment."""
        with self.lock:
            sizes = {jobs: replace(batches) for jobs, batches in self.sizes.items()}
            return replace(self, sizes=sizes, lock=threading.Lock())

    @property
    def cache_misses(self) -> int:
        """Requests for which a model had to run."""
        return self.success - self.cache_hits

    @property
    def request_us(self) -> int:
        """Cumulative time of answered requests."""
        return self.success_ns // 1_000

    @property
    def queue_us(self) -> int:
        """Cumulative time that answered requests waited for their batches."""
        return self.queue_ns // 1_000

    @property
    def compute_us(self) -> int:
        """Cumulative time that the batches of answered requests ran."""
        return self.compute_ns // 1_000
