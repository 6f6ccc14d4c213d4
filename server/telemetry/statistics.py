"""What one model of one bundle has done since it was loaded, as the Open Inference Protocol counts it."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class BatchSize:
    """Batches of one size."""

    count: int = 0
    compute_ns: int = 0


@dataclass(slots=True)
class Statistics:
    """Counts and cumulative times; microseconds and nanoseconds as the protocol has them."""

    success: int = 0
    success_ns: int = 0
    failure: int = 0
    failure_ns: int = 0
    inferences: int = 0
    executions: int = 0
    queue_ns: int = 0
    compute_ns: int = 0
    cache_hits: int = 0
    cache_misses: int = 0
    last_ms: int = 0
    sizes: dict[int, BatchSize] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answered(self, seconds: float, *, is_success: bool) -> None:
        """A request ended."""
        with self.lock:
            if is_success:
                self.success += 1
                self.success_ns += int(seconds * 1e9)
            else:
                self.failure += 1
                self.failure_ns += int(seconds * 1e9)

    def looked_up(self, texts: int, *, is_hit: bool) -> None:
        """So many vectors came from the cache, or did not."""
        with self.lock:
            if is_hit:
                self.cache_hits += texts
            else:
                self.cache_misses += texts

    def ran(self, waits_s: Sequence[float], seconds: float) -> None:
        """A batch ran; `waits_s` is how long each of its jobs had waited."""
        with self.lock:
            self.inferences += len(waits_s)
            self.executions += 1
            self.queue_ns += int(sum(waits_s) * 1e9)
            self.compute_ns += int(seconds * 1e9)
            self.last_ms = int(time.time() * 1e3)
            size = self.sizes.setdefault(len(waits_s), BatchSize())
            size.count += 1
            size.compute_ns += int(seconds * 1e9)

    @property
    def request_us(self) -> int:
        """Cumulative time of answered requests."""
        return self.success_ns // 1_000

    @property
    def queue_us(self) -> int:
        """Cumulative time that jobs waited."""
        return self.queue_ns // 1_000

    @property
    def compute_us(self) -> int:
        """Cumulative time of batches."""
        return self.compute_ns // 1_000
