"""Every metric of the server, and the recorders that count them.

A batch is recorded once; at scrape time its record is added to the bundle's histograms and counters, to the statistics
of Triton's extension and to the `nv_*` metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from typing import TypeAlias

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from swiftrec.server.telemetry.deprecated import renamed, with_old_label
from swiftrec.server.telemetry.histogram import Buffer, HistogramFamily
from swiftrec.server.telemetry.statistics import BatchSize, Statistics
from swiftrec.server.telemetry.traces import Steps

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
_MODEL, _NV_MODEL = ("bundle", "version", "model"), ("model", "version")
_STEPS = ("tokenise", "encode", "rank", "retrieve", "total")
_RATIOS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75)
_BATCH_SIZE = "swiftrec_batch_size"
# Triton's metrics: name, help text and the field of `Statistics`.
_NV = (
    ("nv_inference_request_success", "Successful requests", "success"),
    ("nv_inference_request_failure", "Failed requests", "failure"),
    ("nv_inference_count", "Rows run in batches", "inferences"),
    ("nv_inference_exec_count", "Batches run", "executions"),
    ("nv_inference_request_duration_us", "Time of successful requests", "success_ns"),
    ("nv_inference_queue_duration_us", "Time that successful requests waited", "queue_ns"),
    ("nv_inference_compute_infer_duration_us", "Time that the batches of successful requests ran", "compute_ns"),
    ("nv_cache_num_hits_per_model", "Requests served from the cache", "cache_hits"),
    ("nv_cache_num_misses_per_model", "Requests for which a model ran", "cache_misses"),
)


# A batch that a model ran: its rows, their tokens without and with padding, and its time in seconds.
MeasuredBatch: TypeAlias = "tuple[ModelRecorder, int, int, int, float]"


class Batches(Buffer[MeasuredBatch]):
    """The batches of all models."""

    def fold(self, records: list[MeasuredBatch]) -> None:
        """Count each batch for its model."""
        for model in {model for model, *_ in records}:
            model.count_batches([batch for batch in records if batch[0] is model])


class Metrics(Collector):
    """The server's metrics, in a separate Prometheus registry.

    Attributes:
        bundles: returns the recorders of the bundles that are served now.
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
        self.in_flight = Gauge("swiftrec_calls_in_flight", "Calls that have not ended", registry=self.registry)
        steps = self._histogram(
            "swiftrec_step_seconds", "Time of the steps of a recommendation, waiting included", _SECONDS, "step"
        )
        self._tokenise, self._encode, self._rank, self._retrieve, self._total = map(steps.labels, _STEPS)
        per_model = ("bundle", "model")
        self.queue = self._histogram("swiftrec_queue_seconds", "Time that a request waited", _SECONDS, *per_model)
        self.batch_size = self._histogram(_BATCH_SIZE, "Texts or users in a batch", _COUNTS, *per_model)
        self.batch_tokens = self._histogram("swiftrec_batch_tokens", "Padded tokens in a batch", _TOKENS, *per_model)
        self.padding = self._histogram("swiftrec_padding_ratio", "Share of padding in a batch", _RATIOS, *per_model)
        # Collected by `collect`: with the histograms of batches, or with an old label.
        self.busy = Counter("swiftrec_session_busy_seconds", "Time that batches ran", per_model, registry=None)
        self._steps_by_reason = self._counter(
            "swiftrec_steps", "Steps of the worker, by why they had no more requests", "reason"
        )
        self._rejected = self._counter("swiftrec_calls_rejected", "Calls that the worker rejected", "reason")
        self.dropped = Counter(
            "swiftrec_requests_dropped", "Accepted requests that never ran", (*per_model, "reason"), registry=None
        )
        self.dropped_log_lines = self._counter("swiftrec_log_lines_dropped", "Log lines that could not be written")
        self.lookups = Counter(
            "swiftrec_cache_lookups", "Where the vectors of texts came from", ("bundle", "source"), registry=None
        )

    def observe_steps(self, timings: Steps) -> None:
        """Count the time of each step of a recommendation."""
        self._tokenise.add(timings.tokenise_ms / 1e3)
        self._encode.add(timings.encode_ms / 1e3)
        self._rank.add(timings.rank_ms / 1e3)
        self._retrieve.add(timings.retrieve_ms / 1e3)
        self._total.add(timings.total_ms / 1e3)

    def on_step(self, reason: Enum) -> None:
        """Count a step of the worker, by why it has no more requests."""
        self._steps_by_reason.labels(reason.value).inc()

    def on_rejected(self, reason: Enum) -> None:
        """Count a call that the worker rejected."""
        self._rejected.labels(reason.value).inc()

    def collect(self) -> Iterator[Metric]:
        """The metrics that the registry does not collect itself, for one scrape; all count the same batches."""
        bundles = list(self.bundles())
        with self.batches.folded():
            histograms = [histogram.collect() for histogram in self._histograms]
            others = [*self.busy.collect(), *_model_metrics(bundles)]
        yield from (*histograms, *others)
        yield from (renamed(metric, "swiftrec_batch_jobs") for metric in histograms if metric.name == _BATCH_SIZE)
        for metric in self.dropped.collect():
            yield metric
            yield with_old_label(renamed(metric, "swiftrec_jobs_dropped"), "reason", "cause")
        for metric in self.lookups.collect():
            yield with_old_label(metric, "source", "where", {"coalesced": "joined"})

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, bounds: Sequence[float], *labels: str) -> HistogramFamily:
        self._histograms.append(HistogramFamily(name, text, bounds, labels))
        return self._histograms[-1]


class ModelRecorder:
    """One model of one bundle. Requests for vectors count as the encoder's, recommendations as the ranker's.

    Attributes:
        statistics: of the requests, and of the batches counted so far.
        queue_requests, queue_tokens: requests in the queue and the tokens of their texts; set by the worker's thread.
    """

    def __init__(self, metrics: Metrics, bundle: str, model: str) -> None:
        self.statistics = Statistics()
        self.queue_requests = self.queue_tokens = 0
        self._batches, self._dropped, self._labels = metrics.batches, metrics.dropped, (bundle, model)
        self._queue, self._sizes, self._tokens, self._padding = (
            family.labels(bundle, model)
            for family in (metrics.queue, metrics.batch_size, metrics.batch_tokens, metrics.padding)
        )
        self._busy = metrics.busy.labels(bundle, model)

    def on_queued(self, tokens: int) -> None:
        """A request entered the queue."""
        self.queue_requests += 1
        self.queue_tokens += tokens

    def on_dequeued(self, tokens: int) -> None:
        """A request left the queue."""
        self.queue_requests -= 1
        self.queue_tokens -= tokens

    def on_started(self, waited_s: float) -> None:
        """A request started to run after waiting."""
        self._queue.add(waited_s)

    def on_dropped(self, reason: str) -> None:
        """A queued request will not run: it is "expired" or "cancelled"."""
        self._dropped.labels(*self._labels, reason).inc()

    def on_batch(self, rows: int, tokens: int, padded: int, seconds: float) -> None:
        """A batch ran; called by any thread."""
        self._batches.add((self, rows, tokens, padded, seconds))

    def count_batches(self, batches: Sequence[MeasuredBatch]) -> None:
        """Add batches to the metrics and the statistics."""
        self._sizes.extend([rows for _, rows, *_ in batches])
        self._tokens.extend([padded for *_, padded, _ in batches])
        self._padding.extend([1 - tokens / padded for *_, tokens, padded, _ in batches])
        self._busy.inc(sum(seconds for *_, seconds in batches))
        sizes = self.statistics.sizes
        for _, rows, _, _, seconds in batches:
            number, compute_ns = sizes.get(rows, (0, 0))
            sizes[rows] = BatchSize(number + 1, compute_ns + int(seconds * 1e9))

    def snapshot(self) -> Statistics:
        """A copy of the statistics, with every batch that has run."""
        with self._batches.folded():
            return self.statistics.copy()


class BundleRecorder:
    """Records what both models of one bundle do.

    Args:
        metrics: the server's.
        bundle, version: of the bundle.

    Attributes:
        models: the recorders of "encoder" and "ranker".
        cache_bytes: returns the bytes of vectors in the cache.
    """

    def __init__(self, metrics: Metrics, bundle: str, version: int) -> None:
        self.bundle, self.version = bundle, version
        self.models = {model: ModelRecorder(metrics, bundle, model) for model in ("encoder", "ranker")}
        self.cache_bytes: Callable[[], int] = int
        self._lookups = {source: metrics.lookups.labels(bundle, source) for source in ("hit", "coalesced", "miss")}

    def on_lookup(self, source: str, texts: int) -> None:
        """Count texts by the source of their vector: a cache "hit", a "miss", or "coalesced" with an equal text."""
        self._lookups[source].inc(texts)


def _model_metrics(bundles: Iterable[BundleRecorder]) -> Iterator[Metric]:
    """The queue and the statistics of each model that is served, named "bundle.encoder" or "bundle.ranker"."""
    requests = GaugeMetricFamily("swiftrec_queue_requests", "Requests in the queue", labels=_MODEL)
    tokens = GaugeMetricFamily("swiftrec_queue_tokens", "Tokens of the requests in the queue", labels=_MODEL)
    cached = GaugeMetricFamily("swiftrec_cache_bytes", "Bytes of vectors in the cache", labels=_MODEL)
    pending = GaugeMetricFamily("nv_inference_pending_request_count", "Requests in the queue", labels=_NV_MODEL)
    # Gauges, because the client library adds "_total" to the names of counters.
    counts = {field: GaugeMetricFamily(name, text, labels=_NV_MODEL) for name, text, field in _NV}
    for bundle in bundles:
        for model, recorder in bundle.models.items():
            labels = (bundle.bundle, str(bundle.version), model)
            triton_labels = (f"{bundle.bundle}.{model}", str(bundle.version))
            requests.add_metric(labels, recorder.queue_requests)
            tokens.add_metric(labels, recorder.queue_tokens)
            cached.add_metric(labels, bundle.cache_bytes() if model == "encoder" else 0)
            pending.add_metric(triton_labels, recorder.queue_requests)
            statistics = recorder.statistics.copy()
            for field_name, family in counts.items():
                value = getattr(statistics, field_name)
                family.add_metric(triton_labels, value // 1_000 if field_name.endswith("_ns") else value)
    yield from (requests, tokens, cached, pending, *counts.values())
    yield renamed(requests, "swiftrec_waiting_jobs")
    yield renamed(tokens, "swiftrec_waiting_tokens")
