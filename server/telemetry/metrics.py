"""Every metric, declared once."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


class Metrics:
    """The server's metrics in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # memory and CPU of the process
        self.calls = Counter(
            "swiftrec_calls", "Calls by method and status code", ["method", "code"], registry=self.registry
        )
        self.latency = Histogram(
            "swiftrec_call_seconds",
            "Call time by method",
            ["method"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.batch_jobs = Histogram(
            "swiftrec_batch_jobs", "Jobs in a batch", ["model"], buckets=_COUNTS, registry=self.registry
        )
        self.batch_tokens = Histogram(
            "swiftrec_batch_tokens",
            "Padded tokens in a batch",
            ["model"],
            buckets=_TOKENS,
            registry=self.registry,
        )

    def observe_batch(self, model: str, jobs: int, tokens: int) -> None:
        """Count a batch."""
        self.batch_jobs.labels(model).observe(jobs)
        self.batch_tokens.labels(model).observe(tokens)
