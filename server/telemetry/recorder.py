"""Records what the engine of a bundle does, as metrics and as statistics of its two models."""

from __future__ import annotations

from enum import Enum

from server.telemetry.metrics import Metrics
from server.telemetry.statistics import Statistics


class ModelRecorder:
    """One model of one bundle. Requests for vectors count as the encoder's, recommendations as the ranker's.

    Attributes:
        waiting_jobs, waiting_tokens: requests in the queue and the tokens of their texts; of the worker's thread.
    """

    def __init__(self, metrics: Metrics, bundle: str, model: str) -> None:
        self.statistics = Statistics()
        self.waiting_jobs = self.waiting_tokens = 0
        self._metrics, self._labels = metrics, (bundle, model)
        self._queue = metrics.queue.labels(bundle, model)
        self._jobs = metrics.batch_jobs.labels(bundle, model)
        self._tokens = metrics.batch_tokens.labels(bundle, model)
        self._padding = metrics.padding.labels(bundle, model)
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
        self._metrics.dropped.labels(*self._labels, reason).inc()

    def ran(self, rows: int, tokens: int, padded: int, seconds: float) -> None:
        """A batch ran; called by any thread."""
        self._jobs.add(rows)
        self._tokens.add(padded)
        self._padding.add(1 - tokens / padded)
        self._busy.inc(seconds)
        self.statistics.ran(rows, seconds)


class BundleRecorder:
    """Both models of one bundle.

    Args:
        metrics: where everything is counted.
        bundle, version: the engine's.
    """

    def __init__(self, metrics: Metrics, bundle: str, version: int) -> None:
        self.bundle, self.version = bundle, version
        self.models = {model: ModelRecorder(metrics, bundle, model) for model in ("encoder", "ranker")}
        self._lookups = {source: metrics.lookups.labels(bundle, source) for source in ("hit", "joined", "miss")}

    def looked_up(self, source: str, texts: int) -> None:
        """Texts whose vector came from the cache ("hit"), another request of the batch ("joined") or a "miss"."""
        self._lookups[source].inc(texts)


class WorkerRecorder:
    """What a worker decides."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def stepped(self, reason: Enum) -> None:
        """A step begins; why it has no more requests."""
        self._metrics.steps_by_reason.labels(reason.value).inc()

    def rejected(self, reason: Enum) -> None:
        """A call was not accepted."""
        self._metrics.rejected.labels(reason.value).inc()
