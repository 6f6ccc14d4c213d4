"""Every metric, declared once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector

from server.telemetry.tally import Tallies

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
_RATIOS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75)


class Steps(Protocol):
    """Wall time of a recommendation's steps, in milliseconds."""

    tokenise_ms: float
    encode_ms: float
    rank_ms: float
    retrieve_ms: float
    total_ms: float


class Metrics:
    """The server's metrics in a registry of their own. `nv_*` mean what they mean in Triton."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # memory and CPU of the process
        self.calls = self._histogram(
            "swiftrec_call_seconds", "Time of calls; its count is the number of calls", _SECONDS, "method", "code"
        )
        self.in_flight = Gauge("swiftrec_calls_in_flight", "Calls not answered yet", registry=self.registry)
        self.steps = self._histogram(
            "swiftrec_step_seconds", "Time of a recommendation's steps, waiting included", _SECONDS, "step"
        )
        self._tokenise, self._encode, self._rank, self._retrieve, self._total = (
            self.steps.labels(step) for step in ("tokenise", "encode", "rank", "retrieve", "total")
        )
        per_model = ("bundle", "model")
        self.queue = self._histogram("swiftrec_queue_seconds", "Time that a job waited", _SECONDS, *per_model)
        self.batch_jobs = self._histogram("swiftrec_batch_jobs", "Jobs in a batch", _COUNTS, *per_model)
        self.batch_tokens = self._histogram("swiftrec_batch_tokens", "Padded tokens in a batch", _TOKENS, *per_model)
        self.padding = self._histogram("swiftrec_padding_ratio", "Share of padding in a batch", _RATIOS, *per_model)
        self.busy = self._counter("swiftrec_session_busy_seconds", "Time that sessions ran", *per_model)
        self.steps_by_reason = self._counter("swiftrec_steps", "Steps by why they have no more requests", "reason")
        self.rejected = self._counter("swiftrec_calls_rejected", "Calls that the worker did not accept", "reason")
        self.dropped = self._counter("swiftrec_jobs_dropped", "Jobs that waited but never ran", *per_model, "cause")
        self.dropped_log_lines = self._counter("swiftrec_log_lines_dropped", "Log lines that could not be written")
        self.lookups = self._counter("swiftrec_cache_lookups", "Where vectors of texts came from", "bundle", "where")

    def observe_steps(self, timings: Steps) -> None:
        """Count the time of each step of a recommendation."""
        self._tokenise.add(timings.tokenise_ms / 1e3)
        self._encode.add(timings.encode_ms / 1e3)
        self._rank.add(timings.rank_ms / 1e3)
        self._retrieve.add(timings.retrieve_ms / 1e3)
        self._total.add(timings.total_ms / 1e3)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: Sequence[float], *labels: str) -> Tallies:
        tallies = Tallies(name, text, buckets, labels)
        self.registry.register(tallies)
        return tallies
