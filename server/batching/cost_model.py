"""How long work takes, learned from what was measured at warm-up and while serving."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_KEPT = 256  # observations of serving that the fit looks at
_REFIT_EVERY = 64
_MIN_S = 1e-6  # a batch that takes less is taken to take this
_RATE_MEMORY = 0.9  # of an observation's weight, with each one after it
_SEED_WEIGHT = 0.2  # old against new: the grid keeps the fit well posed, serving decides
_OUTLIER = 4.0  # times the prediction
_IGNORED_OUTLIERS = 2  # in a row: the process did not get the CPU; more of them are a change of the work


@dataclass(frozen=True, slots=True)
class Observation:
    """A batch that ran."""

    jobs: int
    length: int
    seconds: float


class CostModel:
    """t(n, length) = batch + n (row + token * length + pair * length^2) + crowd (n * length)^2, no term below zero.

    Seconds. The terms are those of a transformer: dispatch, per-row work, the dense layers, attention, and what a batch
    costs more than its rows because it has outgrown the core's cache. The fit minimises the relative error, so that
    short batches count as much as long ones.
    """

    def __init__(self, batch_s: float = 2e-4, token_s: float = 1e-5) -> None:
        self._terms = (batch_s, 0.0, token_s, 0.0, 0.0)  # replaced as a whole, so that readers need no lock
        self._lock = threading.Lock()
        self._seeds: list[Observation] = []
        self._recent: deque[Observation] = deque(maxlen=_KEPT)
        self._since_fit = 0

    @property
    def batch_s(self) -> float:
        """Seconds that any batch costs before its first row."""
        return self._terms[0]

    def row_s(self, length: int) -> float:
        """Seconds that one more row of `length` padded tokens costs."""
        _, row, token, pair, _ = self._terms
        return row + length * (token + length * pair)

    def crowd_s(self, length: int) -> float:
        """Seconds for each pair of rows of `length` padded tokens in one batch."""
        return self._terms[4] * length * length

    def job_s(self, length: int, room: int) -> float:
        """Seconds of a row's share of the cheapest batch of up to `room` such rows."""
        batch_s, crowd_s = self.batch_s, self.crowd_s(length)
        jobs = room if crowd_s * room * room <= batch_s else max(1.0, math.sqrt(batch_s / crowd_s))
        return self.row_s(length) + batch_s / jobs + jobs * crowd_s

    def __call__(self, jobs: int, length: int) -> float:
        """Seconds of a batch of `jobs` rows padded to `length` tokens."""
        return self.batch_s + jobs * (self.row_s(length) + jobs * self.crowd_s(length))

    def seed(self, grid: Iterable[Observation]) -> None:
        """Start from measurements of a small grid."""
        with self._lock:
            self._seeds = list(grid)
            self._fit()

    def observe(self, jobs: int, length: int, seconds: float) -> None:
        """Learn from a batch of serving; the terms change every 64 batches."""
        with self._lock:
            self._recent.append(Observation(jobs, length, seconds))
            self._since_fit += 1
            if self._since_fit == _REFIT_EVERY:
                self._fit()

    def _fit(self) -> None:
        self._since_fit = 0
        seeds, recent = _table(self._seeds), _table(self._recent)
        if not len(seeds) + len(recent):
            return
        if len(seeds) and len(recent):  # the grid gives the shape, serving the speed: a model may have become slower
            expected_s = _features(recent) @ np.array(_fitted(seeds, np.ones(len(seeds))))
            seeds[:, 2] *= np.median(recent[:, 2] / np.maximum(expected_s, _MIN_S))
        weights = np.concatenate([np.full(len(seeds), _SEED_WEIGHT if len(recent) else 1.0), np.ones(len(recent))])
        self._terms = _fitted(np.concatenate([seeds, recent]), weights)


class Rate:
    """Seconds for each unit of some work, a mean in which old observations fade and single outliers do not count.

    Args:
        unit_s: until something was observed.
        units: how much work that counts as.
    """

    def __init__(self, unit_s: float, units: float = 1.0) -> None:
        self._units, self._seconds = units, units * unit_s
        self._outliers = 0

    def observe(self, units: float, seconds: float) -> None:
        """Learn from work that took `seconds`; time in which there was no such work says nothing of it."""
        if units <= 0:
            return
        if seconds <= _OUTLIER * self(units):
            self._outliers = 0
        elif self._outliers < _IGNORED_OUTLIERS:
            self._outliers += 1
            return
        self._units = _RATE_MEMORY * self._units + units
        self._seconds = _RATE_MEMORY * self._seconds + seconds

    def __call__(self, units: float) -> float:
        """Predicted seconds of `units`."""
        return units * self._seconds / self._units


def _table(observations: Iterable[Observation]) -> NDArray[np.float64]:
    """Jobs, length and seconds of each observation [n, 3]."""
    rows = [(seen.jobs, seen.length, max(seen.seconds, _MIN_S)) for seen in observations]
    return np.array(rows, dtype=np.float64).reshape(-1, 3)


def _features(seen: NDArray[np.float64]) -> NDArray[np.float64]:
    """What the terms are multiplied with, for each observation [n, 5]."""
    jobs, length, _ = seen.T
    tokens = jobs * length
    return np.stack([np.ones(len(seen)), jobs, tokens, tokens * length, tokens * tokens], axis=1)


def _fitted(seen: NDArray[np.float64], weights: NDArray[np.float64]) -> tuple[float, float, float, float, float]:
    """The terms with the least weighted relative error."""
    batch, row, token, pair, crowd = _non_negative(_features(seen) * (weights / seen[:, 2])[:, None], weights)
    return batch, row, token, pair, crowd


def _non_negative(rows: NDArray[np.float64], target: NDArray[np.float64]) -> list[float]:
    """Least squares; terms that come out negative are dropped one by one, the most negative first."""
    scale = np.abs(rows).max(axis=0)
    kept = [n for n in range(rows.shape[1]) if scale[n] > 0]
    terms = [0.0] * rows.shape[1]
    while kept:
        found = np.linalg.lstsq(rows[:, kept] / scale[kept], target, rcond=None)[0]
        if found.min() >= 0:
            for n, value in zip(kept, found / scale[kept], strict=True):
                terms[n] = float(value)
            break
        del kept[int(found.argmin())]
    return terms
