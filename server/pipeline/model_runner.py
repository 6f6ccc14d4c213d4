"""Runs a model on rows of different lengths: in batches of similar length, on all its sessions."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, wait
from typing import Generic, Protocol, TypeVar

import numpy as np

from swiftrec.server.arrays import Vector
from swiftrec.server.batching.cost_model import CostModel
from swiftrec.server.batching.scheduler import Limits, form_batches
from swiftrec.server.errors import ModelFailed

P_contra = TypeVar("P_contra", contravariant=True)
P = TypeVar("P")
_log = logging.getLogger(__name__)


class Model(Protocol[P_contra]):
    """Runs a batch: one vector for each row, in order."""

    def run(self, rows: Sequence[P_contra], /) -> Sequence[Vector]:
        """Run the batch."""


class BatchRecorder(Protocol):
    """Records the batches of a model; called from several threads."""

    def on_batch(self, rows: int, tokens: int, padded: int, seconds: float, /) -> None:
        """A batch ran: its rows, their tokens without and with padding, and its time."""


class ModelRunner(Generic[P]):
    """One model and its cost model.

    Args:
        model: runs a batch.
        limits: of a batch.
        sessions: batches that run at the same time.
        executor: a thread for each session but the first, which runs in the calling thread; None for one session.
        clock: seconds, monotonic.
        recorder: records batches.

    Attributes:
        cost: predicts run times.
    """

    def __init__(
        self,
        model: Model[P],
        limits: Limits,
        *,
        sessions: int = 1,
        executor: Executor | None = None,
        clock: Callable[[], float] = time.monotonic,
        recorder: BatchRecorder | None = None,
    ) -> None:
        self.model, self._limits, self._sessions, self._executor = model, limits, sessions, executor
        self._clock, self._recorder = clock, recorder
        self.cost = CostModel()

    def run(self, rows: Sequence[P], lengths: Sequence[int]) -> tuple[list[Vector | ModelFailed], list[float]]:
        """The vector of each row, or its error if the model fails on it; and the time of the batch of each row.

        Args:
            rows: one or more.
            lengths: tokens or events of each, at least 1.
        """
        results: list[Vector | ModelFailed] = [ModelFailed("the model failed on this input")] * len(rows)
        seconds = [0.0] * len(rows)

        def run(batch: Sequence[int]) -> None:
            elapsed_s = self._run(batch, rows, lengths, results)
            for n in batch:
                seconds[n] = elapsed_s

        self._share(form_batches(lengths, self._limits, self.cost, self._sessions), lengths, run)
        return results, seconds

    def _share(
        self, batches: Sequence[list[int]], lengths: Sequence[int], run: Callable[[Sequence[int]], None]
    ) -> None:
        """Run batches on all sessions, each of which takes the largest remaining batch."""
        left = deque(sorted(batches, key=lambda batch: len(batch) * lengths[batch[-1]]))  # the last row is the longest

        def run_some() -> None:
            while left:
                try:
                    batch = left.pop()
                except IndexError:  # another session has removed the last one
                    return
                run(batch)

        helpers = min(self._sessions, len(batches)) - 1
        futures = [self._executor.submit(run_some) for _ in range(helpers)] if self._executor else []
        try:
            run_some()
        finally:
            wait(futures)  # after an error, no batch of this step keeps running
        for future in futures:
            future.result()

    def _run(
        self, batch: Sequence[int], rows: Sequence[P], lengths: Sequence[int], results: list[Vector | ModelFailed]
    ) -> float:
        """Run a batch; on failure retry its rows singly, so that only faulty rows fail. Returns the time in seconds."""
        started = self._clock()
        try:
            vectors = self.model.run([rows[n] for n in batch])
            pairs = list(zip(batch, vectors, strict=True))  # a missing vector is an error of the model, too
        except Exception as failure:  # noqa: BLE001 (errors of a model affect only its rows)
            if len(batch) == 1:
                _log.error("model failed on a row", exc_info=failure)
                return self._clock() - started
            return sum(self._run([n], rows, lengths, results) for n in batch)
        elapsed_s = self._clock() - started
        longest = max(lengths[n] for n in batch)
        self.cost.observe(len(batch), longest, elapsed_s)
        if self._recorder:
            self._recorder.on_batch(len(batch), sum(lengths[n] for n in batch), longest * len(batch), elapsed_s)
        for n, vector in pairs:
            if np.isfinite(vector).all():
                results[n] = vector
            else:
                results[n] = ModelFailed("the model returns numbers that are not finite for this input")
        return elapsed_s
