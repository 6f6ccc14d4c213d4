"""Statistics of one model of one bundle since it was loaded, as Triton's statistics extension counts them.

Requests and their times are counted when a request succeeds, so that the counts always agree: successes are cache hits
plus cache misses, and the time of requests is at least their queue time plus their compute time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace


@dataclass(slots=True)
class ModelTime:
    """How long the batches of one request were waited for and ran, in seconds.

    Attributes:
        queue_s: until the batch started.
        compute_s: while it ran.
        has_run: whether any batch ran for the request; if none did, its vectors came from the cache.
    """

    queue_s: float = 0.0
    compute_s: float = 0.0
    has_run: bool = False

    @property
    def total_s(self) -> float:
        """Both."""
        return self.queue_s + self.compute_s

    def keep_longest(self, submitted: float, started: float, ended: float) -> None:
        """Note a job that runs beside the request's other jobs: only the one that took longest counts.

        Args:
            submitted: when this request asked for the job, which another request may have started before.
            started: when the job's batch started, on the same clock.
            ended: when it ended.
        """
        queue_s = max(0.0, started - submitted)
        compute_s = max(0.0, ended - max(started, submitted))
        if queue_s + compute_s >= self.total_s:
            self.queue_s, self.compute_s = queue_s, compute_s
        self.has_run = True

    def add(self, submitted: float, started: float, ended: float) -> None:
        """Note a job that runs after the request's other jobs."""
        self.queue_s += started - submitted
        self.compute_s += ended - started
        self.has_run = True


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

    def succeeded(self, seconds: float, models: ModelTime, lookup_s: float | None) -> None:
        """Count a request that was answered; `lookup_s` is the time of its cache lookup if that found everything."""
        with self.lock:
            self.success += 1
            self.success_ns += int(seconds * 1e9)
            self.queue_ns += int(models.queue_s * 1e9)
            self.compute_ns += int(models.compute_s * 1e9)
            self.last_ms = int(time.time() * 1e3)
            if lookup_s is not None:
                self.cache_hits += 1
                self.cache_hit_ns += int(lookup_s * 1e9)

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


def longest(times: Sequence[ModelTime]) -> ModelTime:
    """The time of a request that has several parts side by side: that of the part which took longest."""
    return max(times, key=lambda part: part.total_s)
