"""Runs a model over rows of different length: in batches of similar length, on all its sessions."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, wait
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from swiftrec.server.batching.cost_model import CostModel
from swiftrec.server.batching.scheduler import Limits, form_batches
from swiftrec.server.errors import ModelFailed

Vector = NDArray[np.float32]
P_contra = TypeVar("P_contra", contravariant=True)
P = TypeVar("P")
_log = logging.getLogger(__name__)


class Model(Protocol[P_contra]):
    """What runs a batch: one vector for each row, in order."""

    def run(self, rows: Sequence[P_contra], /) -> Sequence[Vector]:
        """Run the batch."""


class BatchRecorder(Protocol):
    """Records the batches of a model; called by several threads."""

    def ran(self, rows: int, tokens: int, padded: int, seconds: float, /) -> None:
        """A batch ran: rows, their tokens without and with padding, and its time."""


class ModelRunner(Generic[P]):
    """One model and what is known of its speed.

    Args:
        model: runs a batch.
        limits: of a batch.
        sessions: batches that run at the same time.
        executor: a thread for each session beside the first, which is this thread's; None where there is one.
        clock: seconds, monotonic.
        recorder: records batches.

    Attributes:
        cost: predicts and learns run times.
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
        """The vector of each row, or the error of a row that the model cannot run; and the time of each row's batch.

        Args:
            rows: one or more.
            lengths: tokens or events of each, at least 1.
        """
        results: list[Vector | ModelFailed] = [ModelFailed("the model failed on this input")] * len(rows)
        seconds = [0.0] * len(rows)

        def run(batch: Sequence[int]) -> None:
            took_s = self._run(batch, rows, lengths, results)
            for n in batch:
                seconds[n] = took_s

        self._share(form_batches(lengths, self._limits, self.cost, self._sessions), lengths, run)
        return results, seconds

    def _share(
        self, batches: Sequence[list[int]], lengths: Sequence[int], run: Callable[[Sequence[int]], None]
    ) -> None:
        """Run batches on all sessions: each takes the largest that is left."""
        left = deque(sorted(batches, key=lambda batch: len(batch) * lengths[batch[-1]]))  # the last row is the longest

        def run_some() -> None:
            while left:
                try:
                    batch = left.pop()
                except IndexError:  # another session took the last one
                    return
                run(batch)

        helpers = min(self._sessions, len(batches)) - 1
        futures = [self._executor.submit(run_some) for _ in range(helpers)] if self._executor else []
        try:
            run_some()
        finally:
            wait(futures)  # nothing of this step runs on once it has failed
        for future in futures:
            future.result()

    def _run(
        self, batch: Sequence[int], rows: Sequence[P], lengths: Sequence[int], results: list[Vector | ModelFailed]
    ) -> float:
        """Run a batch; one that fails is run row by row, so that only the guilty row fails. Its time in seconds."""
        started = self._clock()
        try:
            vectors = self.model.run([rows[n] for n in batch])
            pairs = list(zip(batch, vectors, strict=True))  # a vector too few is the model's error, too
        except Exception as failure:  # noqa: BLE001 (whatever a model raises concerns its own rows only)
            if len(batch) == 1:
                _log.error("model failed on a row", exc_info=failure)
                return self._clock() - started
            return sum(self._run([n], rows, lengths, results) for n in batch)
        took_s = self._clock() - started
        longest = max(lengths[n] for n in batch)
        self.cost.observe(len(batch), longest, took_s)
        if self._recorder:
            self._recorder.ran(len(batch), sum(lengths[n] for n in batch), longest * len(batch), took_s)
        for n, vector in pairs:
            if np.isfinite(vector).all():
                results[n] = vector
            else:
                results[n] = ModelFailed("the model answers numbers that are not finite for this input")
        return took_s
