"""Every metric, declared once, and the recorders of what it counts.

What happened is recorded once. A batch is one record, of which its bundle's histograms and counters, the statistics of
Triton's extension and the `nv_*` metrics are made when somebody reads.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import NamedTuple, TypeAlias

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from swiftrec.server.telemetry.histogram import Buffer, HistogramFamily
from swiftrec.server.telemetry.traces import Steps

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
_MODEL, _NV_MODEL = ("bundle", "version", "model"), ("model", "version")
_STEPS = ("tokenise", "encode", "rank", "retrieve", "total")
_RATIOS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75)
# What they mean in Triton, from the statistics of one version of a model.
_NV = (
    ("nv_inference_request_success", "Requests answered", "success"),
    ("nv_inference_request_failure", "Requests that failed", "failure"),
    ("nv_inference_count", "Jobs run in batches", "inferences"),
    ("nv_inference_exec_count", "Batches run", "executions"),
    ("nv_inference_request_duration_us", "Time of answered requests", "success_ns"),
    ("nv_inference_queue_duration_us", "Time that answered requests waited for batches", "queue_ns"),
    ("nv_inference_compute_infer_duration_us", "Time that batches of answered requests ran", "compute_ns"),
    ("nv_cache_num_hits_per_model", "Requests answered from the cache", "cache_hits"),
    ("nv_cache_num_misses_per_model", "Requests for which a model ran", "cache_misses"),
)


class BatchSize(NamedTuple):
    """Batches of one size: their number and time."""

    batches: int
    compute_ns: int


@dataclass(slots=True)
class Statistics:
    """Statistics of one model of one bundle since it was loaded, as Triton's statistics extension counts them.

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
    sizes: dict[int, BatchSize] = field(default_factory=dict)  # of the batches that are added up
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def succeeded(self, seconds: float, queue_s: float, compute_s: float, *, was_cached: bool = False) -> None:
        """Count a request that was answered.

        Args:
            seconds: from its arrival to its response.
            queue_s: that it waited for its step.
            compute_s: that batches of models ran for it.
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

    def failed(self, seconds: float) -> None:
        """Count a request that ended with an error."""
        with self._lock:
            self.failure += 1
            self.failure_ns += int(seconds * 1e9)

    def copy(self) -> Statistics:
        """A copy whose counts are all of one moment; taken while no batches are added up."""
        with self._lock:
            return replace(self, sizes=dict(self.sizes), _lock=threading.Lock())

    @property
    def cache_misses(self) -> int:
        """Requests for which a model had to run."""
        return self.success - self.cache_hits

    @property
    def inferences(self) -> int:
        """Rows of all batches."""
        return sum(rows * size.batches for rows, size in self.sizes.items())

    @property
    def executions(self) -> int:
        """Batches."""
        return sum(size.batches for size in self.sizes.values())


# A batch that a model ran: rows, their tokens without and with padding, and its time in seconds.
Batch: TypeAlias = "tuple[ModelRecorder, int, int, int, float]"


class Batches(Buffer[Batch]):
    """The batches of all models."""

    def fold(self, records: list[Batch]) -> None:
        """Count each for its model."""
        for model in {model for model, *_ in records}:
            model.count([batch for batch in records if batch[0] is model])


class Metrics(Collector):
    """The server's metrics, in a registry apart from the default one.

    Attributes:
        bundles: the recorders of the bundles that serve now.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(self)
        ProcessCollector(registry=self.registry)  # memory and CPU of the process
        self.bundles: Callable[[], Iterable[BundleRecorder]] = tuple
        self.batches = Batches()
        self._histograms: list[HistogramFamily] = []
        self.calls = self._histogram(
            "swiftrec_call_seconds", "Time of calls; its count is the number of calls", _SECONDS, "method", "code"
        )
        self.in_flight = Gauge("swiftrec_calls_in_flight", "Calls not answered yet", registry=self.registry)
        steps = self._histogram(
            "swiftrec_step_seconds", "Time of a recommendation's steps, waiting included", _SECONDS, "step"
        )
        self._tokenise, self._encode, self._rank, self._retrieve, self._total = map(steps.labels, _STEPS)
        per_model = ("bundle", "model")
        self.queue = self._histogram("swiftrec_queue_seconds", "Time that a job waited", _SECONDS, *per_model)
        self.batch_jobs = self._histogram("swiftrec_batch_jobs", "Jobs in a batch", _COUNTS, *per_model)
        self.batch_tokens = self._histogram("swiftrec_batch_tokens", "Padded tokens in a batch", _TOKENS, *per_model)
        self.padding = self._histogram("swiftrec_padding_ratio", "Share of padding in a batch", _RATIOS, *per_model)
        # Collected with the histograms of batches, not by the registry.
        self.busy = Counter("swiftrec_session_busy_seconds", "Time that sessions ran", per_model, registry=None)
        self._steps_by_reason = self._counter("swiftrec_steps", "Steps by why they have no more requests", "reason")
        self._rejected = self._counter("swiftrec_calls_rejected", "Calls that the worker did not accept", "reason")
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

    def stepped(self, reason: Enum) -> None:
        """A step of the worker begins; why it has no more requests."""
        self._steps_by_reason.labels(reason.value).inc()

    def rejected(self, reason: Enum) -> None:
        """The worker did not accept a call."""
        self._rejected.labels(reason.value).inc()

    def collect(self) -> Iterator[Metric]:
        """For a scrape: the histograms and the metrics of models, which count the same batches on every page."""
        bundles = list(self.bundles())
        with self.batches.folded():
            histograms = [histogram.collect() for histogram in self._histograms]
            others = [*self.busy.collect(), *_metrics_of_models(bundles)]
        yield from (*histograms, *others)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, bounds: Sequence[float], *labels: str) -> HistogramFamily:
        self._histograms.append(HistogramFamily(name, text, bounds, labels))
        return self._histograms[-1]


class ModelRecorder:
    """One model of one bundle. Requests for vectors count as the encoder's, recommendations as the ranker's.

    Attributes:
        statistics: of the requests, and of the batches that are added up.
        waiting_jobs, waiting_tokens: requests in the queue and the tokens of their texts; of the worker's thread.
    """

    def __init__(self, metrics: Metrics, bundle: str, model: str) -> None:
        self.statistics = Statistics()
        self.waiting_jobs = self.waiting_tokens = 0
        self._batches, self._dropped, self._labels = metrics.batches, metrics.dropped, (bundle, model)
        self._queue, self._jobs, self._tokens, self._padding = (
            family.labels(bundle, model)
            for family in (metrics.queue, metrics.batch_jobs, metrics.batch_tokens, metrics.padding)
        )
        self._busy = metrics.busy.labels(bundle, model)

    def queued(self, tokens: int) -> None:
        """A request was queued."""
        self.waiting_jobs += 1
        self.waiting_tokens += tokens

    def left_queue(self, tokens: int) -> None:
        """A request waits no more."""
        self.waiting_jobs -= 1
        self.waiting_tokens -= tokens

    def started(self, waited_s: float) -> None:
        """A request that waited goes into a step."""
        self._queue.add(waited_s)

    def dropped(self, reason: str) -> None:
        """A request that waited was not run: "expired" or "cancelled"."""
        self._dropped.labels(*self._labels, reason).inc()

    def ran(self, rows: int, tokens: int, padded: int, seconds: float) -> None:
        """A batch ran; called by any thread."""
        self._batches.add((self, rows, tokens, padded, seconds))

    def count(self, batches: Sequence[Batch]) -> None:
        """Add batches up."""
        self._jobs.extend([rows for _, rows, *_ in batches])
        self._tokens.extend([padded for *_, padded, _ in batches])
        self._padding.extend([1 - tokens / padded for *_, tokens, padded, _ in batches])
        self._busy.inc(sum(seconds for *_, seconds in batches))
        sizes = self.statistics.sizes
        for _, rows, _, _, seconds in batches:
            number, compute_ns = sizes.get(rows, (0, 0))
            sizes[rows] = BatchSize(number + 1, compute_ns + int(seconds * 1e9))

    def snapshot(self) -> Statistics:
        """The statistics of now."""
        with self._batches.folded():
            return self.statistics.copy()


class BundleRecorder:
    """Both models of one bundle.

    Args:
        metrics: where everything is counted.
        bundle, version: the engine's.

    Attributes:
        cache_bytes: bytes of vectors in the cache now.
    """

    def __init__(self, metrics: Metrics, bundle: str, version: int) -> None:
        self.bundle, self.version = bundle, version
        self.models = {model: ModelRecorder(metrics, bundle, model) for model in ("encoder", "ranker")}
        self.cache_bytes: Callable[[], int] = int
        self._lookups = {source: metrics.lookups.labels(bundle, source) for source in ("hit", "joined", "miss")}

    def looked_up(self, source: str, texts: int) -> None:
        """Texts whose vector came from the cache ("hit"), another request of the batch ("joined") or a "miss"."""
        self._lookups[source].inc(texts)


def _metrics_of_models(bundles: Iterable[BundleRecorder]) -> Iterator[Metric]:
    """What waits now, and the statistics of each model that serves, named "bundle.encoder" or "bundle.ranker"."""
    jobs = GaugeMetricFamily("swiftrec_waiting_jobs", "Jobs that wait", labels=_MODEL)
    tokens = GaugeMetricFamily("swiftrec_waiting_tokens", "Tokens of the jobs that wait", labels=_MODEL)
    cached = GaugeMetricFamily("swiftrec_cache_bytes", "Bytes in the cache of vectors", labels=_MODEL)
    pending = GaugeMetricFamily("nv_inference_pending_request_count", "Jobs that wait", labels=_NV_MODEL)
    # Gauges, since the names of counters would gain "_total".
    counts = {field: GaugeMetricFamily(name, text, labels=_NV_MODEL) for name, text, field in _NV}
    for bundle in bundles:
        for model, recorder in bundle.models.items():
            ours = (bundle.bundle, str(bundle.version), model)
            theirs = (f"{bundle.bundle}.{model}", str(bundle.version))
            jobs.add_metric(ours, recorder.waiting_jobs)
            tokens.add_metric(ours, recorder.waiting_tokens)
            cached.add_metric(ours, bundle.cache_bytes() if model == "encoder" else 0)
            pending.add_metric(theirs, recorder.waiting_jobs)
            statistics = recorder.statistics.copy()
            for field_name, family in counts.items():
                value = getattr(statistics, field_name)
                family.add_metric(theirs, value // 1_000 if field_name.endswith("_ns") else value)
    yield from (jobs, tokens, cached, pending, *counts.values())
