"""Predicts run times, from measurements at warm-up and while serving."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_RECENT_BATCHES = 256  # observations from serving that are used for the fit
_REFIT_BATCHES = 64
_MIN_S = 1e-6  # lower bound of a measured time
_RATE_DECAY = 0.9  # of the weight of an observation, with each later one
_SEED_WEIGHT = 0.2  # of warm-up observations, which keep the fit well posed
_OUTLIER_FACTOR = 4.0  # times the prediction
_MAX_OUTLIERS = 2  # in a row that are ignored, since the process may have lost the CPU; more mean that costs changed


@dataclass(frozen=True, slots=True)
class Observation:
    """The measured time of a batch."""

    rows: int
    length: int
    seconds: float


class CostModel:
    """Seconds of a batch of n rows: batch + n (row + token * length + pair * length^2) + pressure (n * length)^2.

    No term is negative. They model a transformer: fixed cost, cost of a row, dense layers, attention, and the cache
    misses of large batches. The fit minimises the relative error, so that short batches count as much as long ones.
    """

    def __init__(self, batch_s: float = 2e-4, token_s: float = 1e-5) -> None:
        self._terms = (batch_s, 0.0, token_s, 0.0, 0.0)  # replaced as a whole: readers need no lock
        self._lock = threading.Lock()
        self._seeds: list[Observation] = []
        self._recent: deque[Observation] = deque(maxlen=_RECENT_BATCHES)
        self._since_fit = 0

    @property
    def batch_s(self) -> float:
        """Fixed seconds of a batch."""
        return self._terms[0]

    def row_s(self, length: int) -> float:
        """Seconds of an additional row of `length` padded tokens."""
        _, row, token, pair, _ = self._terms
        return row + length * (token + length * pair)

    def cache_pressure_s(self, length: int) -> float:
        """Seconds for each pair of rows of `length` padded tokens in one batch."""
        return self._terms[4] * length * length

    def cheapest_row_s(self, length: int, capacity: int) -> float:
        """Seconds of a row in the cheapest batch of up to `capacity` such rows."""
        batch_s, cache_pressure_s = self.batch_s, self.cache_pressure_s(length)
        rows = (
            capacity
            if cache_pressure_s * capacity * capacity <= batch_s
            else max(1.0, math.sqrt(batch_s / cache_pressure_s))
        )
        return self.row_s(length) + batch_s / rows + rows * cache_pressure_s

    def __call__(self, rows: int, length: int) -> float:
        """Seconds of a batch of `rows` rows padded to `length` tokens."""
        return self.batch_s + rows * (self.row_s(length) + rows * self.cache_pressure_s(length))

    def seed(self, grid: Iterable[Observation]) -> None:
        """Fit the model to measurements of a small grid."""
        with self._lock:
            self._seeds = list(grid)
            self._fit()

    def observe(self, rows: int, length: int, seconds: float) -> None:
        """Add a batch from serving; the model is fitted again every 64 batches."""
        with self._lock:
            self._recent.append(Observation(rows, length, seconds))
            self._since_fit += 1
            if self._since_fit == _REFIT_BATCHES:
                self._fit()

    def _fit(self) -> None:
        self._since_fit = 0
        seeds, recent = _table(self._seeds), _table(self._recent)
        if not len(seeds) + len(recent):
            return
        if len(seeds) and len(recent):  # scale the grid to the speed while serving
            expected_s = _features(recent) @ np.array(_fitted(seeds, np.ones(len(seeds))))
            seeds[:, 2] *= np.median(recent[:, 2] / np.maximum(expected_s, _MIN_S))
        weights = np.concatenate([np.full(len(seeds), _SEED_WEIGHT if len(recent) else 1.0), np.ones(len(recent))])
        self._terms = _fitted(np.concatenate([seeds, recent]), weights)


class Rate:
    """Seconds for each unit of work: a mean with decaying weights, which ignores single outliers.

    Args:
        unit_s: initial value.
        units: weight of the initial value, in units of work.
    """

    def __init__(self, unit_s: float, units: float = 1.0) -> None:
        self._units, self._seconds = units, units * unit_s
        self._outliers = 0

    def observe(self, units: float, seconds: float) -> None:
        """Add `units` of work that lasted `seconds`; ignored if there was no work."""
        if units <= 0:
            return
        if seconds <= _OUTLIER_FACTOR * self(units):
            self._outliers = 0
        elif self._outliers < _MAX_OUTLIERS:
            self._outliers += 1
            return
        self._units = _RATE_DECAY * self._units + units
        self._seconds = _RATE_DECAY * self._seconds + seconds

    def __call__(self, units: float) -> float:
        """Predicted seconds of `units`."""
        return units * self._seconds / self._units


def _table(observations: Iterable[Observation]) -> NDArray[np.float64]:
    """Rows, length and seconds of each observation [n, 3]."""
    table = [(batch.rows, batch.length, max(batch.seconds, _MIN_S)) for batch in observations]
    return np.array(table, dtype=np.float64).reshape(-1, 3)


def _features(seen: NDArray[np.float64]) -> NDArray[np.float64]:
    """The features of each observation [n, 5]."""
    rows, length, _ = seen.T
    tokens = rows * length
    return np.stack([np.ones(len(seen)), rows, tokens, tokens * length, tokens * tokens], axis=1)


def _fitted(seen: NDArray[np.float64], weights: NDArray[np.float64]) -> tuple[float, float, float, float, float]:
    """The terms that minimise the weighted relative error."""
    batch, row, token, pair, pressure = _non_negative(_features(seen) * (weights / seen[:, 2])[:, None], weights)
    return batch, row, token, pair, pressure


def _non_negative(rows: NDArray[np.float64], target: NDArray[np.float64]) -> list[float]:
    """Least squares without negative terms: negative ones are removed one by one, the most negative first."""
    scale = np.abs(rows).max(axis=0)
    columns = [n for n in range(rows.shape[1]) if scale[n] > 0]
    terms = [0.0] * rows.shape[1]
    while columns:
        solution = np.linalg.lstsq(rows[:, columns] / scale[columns], target, rcond=None)[0]
        if solution.min() >= 0:
            for n, value in zip(columns, solution / scale[columns], strict=True):
                terms[n] = float(value)
            break
        del columns[int(solution.argmin())]
    return terms
