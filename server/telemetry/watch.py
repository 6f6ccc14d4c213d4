"""What an engine's parts tell their doings to: metrics and statistics of one bundle."""

from __future__ import annotations

import time
from collections.abc import Sequence
from enum import Enum

from server.telemetry.metrics import Metrics, Steps
from server.telemetry.statistics import ModelTime, Statistics
from server.telemetry.traces import Notes


class ModelWatch:
    """Hears a batcher."""

    def __init__(self, metrics: Metrics, bundle: str, model: str) -> None:
        self.statistics = Statistics()
        self._metrics, self._labels = metrics, (bundle, model)
        self._queue = metrics.queue.labels(bundle, model)
        self._jobs = metrics.batch_jobs.labels(bundle, model)
        self._tokens = metrics.batch_tokens.labels(bundle, model)
        self._padding = metrics.padding.labels(bundle, model)
        self._busy = metrics.busy.labels(bundle, model)
        self._left = {why: metrics.left.labels(bundle, model, why) for why in ("drained", "full", "cut")}

    def refused(self, why: Enum) -> None:
        """A job was not accepted."""
        self._metrics.refused.labels(*self._labels, why.value).inc()

    def dropped(self, why: str) -> None:
        """A job that waited was not run."""
        self._metrics.dropped.labels(*self._labels, why).inc()

    def ran(self, waits_s: Sequence[float], tokens: int, padded: int, seconds: float, why: Enum) -> None:
        """A batch ran."""
        self._queue.extend(waits_s)
        self._jobs.add(len(waits_s))
        self._tokens.add(padded)
        self._padding.add(1 - tokens / padded)
        self._busy.inc(seconds)
        self._left[why.value].inc()
        self.statistics.ran(len(waits_s), seconds)


class BundleWatch:
    """Hears an engine.

    Args:
        metrics: where it is counted.
        bundle, version: the engine's.
        notes: where the times of steps are noted; None: nowhere.
    """

    def __init__(self, metrics: Metrics, bundle: str, version: int, notes: Notes | None = None) -> None:
        self.bundle, self.version, self._notes = bundle, version, notes
        self.models = {model: ModelWatch(metrics, bundle, model) for model in ("encoder", "ranker")}
        self._where = {where: metrics.lookups.labels(bundle, where) for where in ("hit", "joined", "miss")}

    def looked_up(self, where: str, texts: int) -> None:
        """So many vectors came from the cache ("hit"), a job in flight ("joined") or a job of their own ("miss")."""
        self._where[where].inc(texts)

    def answered(
        self, model: str, seconds: float, steps: Steps, models: ModelTime, lookup_s: float | None = None
    ) -> None:
        """Record a request to `model` that succeeded just now; called by the thread that answers it.

        Args:
            model: "encoder" or "ranker".
            seconds: from the start of the request until now.
            steps: the wall time of its steps.
            models: the time of its batches.
            lookup_s: the time of the cache lookup if that found every vector, so that no model ran; else None.
        """
        self._note(seconds, steps)
        self.models[model].statistics.succeeded(seconds, models, lookup_s)

    def failed(self, model: str, seconds: float, steps: Steps) -> None:
        """Record a request to `model` that ended with an error; `steps` has the steps that it came to."""
        self._note(seconds, steps)
        self.models[model].statistics.failed(seconds)

    def _note(self, seconds: float, steps: Steps) -> None:
        if self._notes is not None:
            ended = time.monotonic()
            self._notes.add(self.bundle, self.version, ended - seconds, ended, steps)
