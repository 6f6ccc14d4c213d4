"""Figures that are read when they are asked for: what waits, and the counts of each model that serves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from server.telemetry.statistics import Statistics

_NV = (
    ("nv_inference_request_success", "Requests answered", "success"),
    ("nv_inference_request_failure", "Requests that failed", "failure"),
    ("nv_inference_count", "Jobs run in batches", "inferences"),
    ("nv_inference_exec_count", "Batches run", "executions"),
    ("nv_inference_request_duration_us", "Time of answered requests", "request_us"),
    ("nv_inference_queue_duration_us", "Time that answered requests waited for batches", "queue_us"),
    ("nv_inference_compute_infer_duration_us", "Time that batches of answered requests ran", "compute_us"),
    ("nv_cache_num_hits_per_model", "Requests answered from the cache", "cache_hits"),
    ("nv_cache_num_misses_per_model", "Requests for which a model ran", "cache_misses"),
)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One model of one bundle, now."""

    bundle: str
    version: int
    model: str
    waiting_jobs: int
    waiting_tokens: int
    cached_bytes: int
    statistics: Statistics


class EngineCollector(Collector):
    """`nv_*` mean what they mean in Triton; the model's name is "bundle.encoder" or "bundle.ranker"."""

    def __init__(self, snapshots: Callable[[], Iterable[Snapshot]]) -> None:
        self._snapshots = snapshots

    def collect(self) -> Iterator[Metric]:
        """Every figure of every model."""
        now = list(self._snapshots())
        for name, text, field in (
            ("swiftrec_waiting_jobs", "Jobs that wait", "waiting_jobs"),
            ("swiftrec_waiting_tokens", "Tokens of the jobs that wait", "waiting_tokens"),
            ("swiftrec_cache_bytes", "Bytes in the cache of vectors", "cached_bytes"),
        ):
            gauge = GaugeMetricFamily(name, text, labels=["bundle", "version", "model"])
            for one in now:
                gauge.add_metric([one.bundle, str(one.version), one.model], getattr(one, field))
            yield gauge
        pending = GaugeMetricFamily("nv_inference_pending_request_count", "Jobs that wait", labels=["model", "version"])
        for one in now:
            pending.add_metric([f"{one.bundle}.{one.model}", str(one.version)], one.waiting_jobs)
        yield pending
        for name, text, field in _NV:
            counter = GaugeMetricFamily(name, text, labels=["model", "version"])  # a counter's name would gain "_total"
            for one in now:
                counter.add_metric([f"{one.bundle}.{one.model}", str(one.version)], getattr(one.statistics, field))
            yield counter
