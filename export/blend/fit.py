"""The weights of a score's parts: those under which what users took next was most likely.

A multinomial logit over the catalogue (McFadden, 1974): its log-likelihood is concave in the weights, so there is one
best answer. Signals are scaled by their spread before the penalty looks at them: it draws the weights to `_PRIOR`, less
the more requests there are, so that a few requests do not decide alone. Large catalogues are sampled: the item that was
wanted and the items that memory or words add most to are kept, and each of the others drawn stands for many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from swiftrec.export.errors import ExportError
from swiftrec.server.catalogue.blend import SIGNALS, Weights

Floats = NDArray[np.float64]
Loss = Callable[[Floats], tuple[float, Floats]]
Bounds = tuple[float | None, float | None]

_PRIOR = Weights(ranker=0.0, query=5.0, events=5.0, transitions=0.3, neighbours=5.0, words=0.5, popularity=0.3)
_PRIOR_CASES = 5.0  # of the squared distance from `_PRIOR`, divided by the cases, beside a mean log-likelihood
_NEARBY = 20.0  # the same of a group's weights from those of all groups
_FLAT = 1e-2  # largest entry of the gradient where a fit may end, in log-likelihood by standard deviation of a signal
_TRIES = 5  # starts of the optimiser, each from where the one before it stopped
_FREE = {"newcomer"}  # signals whose weight may be negative
_ROWS = 65_536  # choices whose signals are looked at together in double precision: 4 MB


@dataclass(frozen=True, slots=True)
class Choices:
    """What one request could have chosen from, the wanted item first.

    Args:
        signals: float32 [choices, signals], unweighted.
        offsets: float32 [choices], logarithm of how many items each stands for.
    """

    signals: NDArray[np.float32]
    offsets: NDArray[np.float32]


def fit_weights(choices: Sequence[Choices], start: Weights | None = None) -> Weights:
    """The weights of a kind of request; with `start` those of a group, drawn to where all groups are.

    With no choices the ranker alone counts, or what `start` says.

    Raises:
        ExportError: the optimiser did not reach the largest likelihood.
    """
    if not choices:
        return start or Weights()
    problem = _Problem.of(choices)
    near = np.array([getattr(start or _PRIOR, name) for name in SIGNALS])
    penalty = (_PRIOR_CASES if start is None else _NEARBY) / len(choices)
    found = problem.solve(near, penalty)
    return Weights(**{name: float(weight) for name, weight in zip(SIGNALS, found, strict=True)})


def likelihood(choices: Sequence[Choices], weights: Weights) -> float:
    """Mean logarithm of the chance of what was wanted."""
    values = np.array([getattr(weights, name) for name in SIGNALS])
    return -_Problem.of(choices).loss(values)[0]


@dataclass(frozen=True, slots=True)
class _Problem:
    """All choices one after the other; `starts` [requests] is where each request's begin."""

    signals: NDArray[np.float32]
    offsets: NDArray[np.float32]
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, choices: Sequence[Choices]) -> _Problem:
        sizes = np.array([len(one.offsets) for one in choices])
        signals = np.concatenate([one.signals for one in choices])
        return cls(signals, np.concatenate([one.offsets for one in choices]), np.cumsum(sizes) - sizes)

    def solve(self, first: Floats, penalty: float) -> Floats:
        scale = self._spread()
        used = scale > 0  # a signal that is the same for all says nothing
        scale = np.where(used, scale, 1.0)
        bounds = [(None if name in _FREE else 0.0, None if on else 0.0) for name, on in zip(SIGNALS, used, strict=True)]
        bounds = [(low if on else 0.0, high) for (low, high), on in zip(bounds, used, strict=True)]
        near = np.where(used, first * scale, 0.0)

        def loss(weights: Floats) -> tuple[float, Floats]:
            """Of weights of the scaled signals, with the penalty, and its gradient."""
            value, gradient = self.loss(weights / scale)
            away = weights - near
            return value + float(penalty * away @ away), gradient / scale + 2 * penalty * away

        return _lowest(loss, near + 0.1 * used, bounds) / scale

    def loss(self, weights: Floats) -> tuple[float, Floats]:
        """Mean -log P of the wanted items, and its gradient."""
        scores = self.signals @ weights.astype(np.float32) + self.offsets
        highest = np.maximum.reduceat(scores, self.starts)
        sizes = np.diff(np.append(self.starts, len(scores)))
        chances = np.exp(scores - np.repeat(highest, sizes)).astype(np.float64)
        totals = np.add.reduceat(chances, self.starts)
        log_chance = scores[self.starts] - highest - np.log(totals)
        chances /= np.repeat(totals, sizes)
        expected = sum((chances[part] @ rows for part, rows in self._parts()), np.zeros(len(SIGNALS)))
        wanted = self.signals[self.starts].sum(0, dtype=np.float64)
        return float(-log_chance.mean()), (expected - wanted) / len(self.starts)

    def _spread(self) -> Floats:
        """Standard deviation of each signal; 0 of one that is the same for all."""
        mean = sum((rows.sum(0) for _, rows in self._parts()), np.zeros(len(SIGNALS))) / len(self.offsets)
        squares = sum((np.square(rows - mean).sum(0) for _, rows in self._parts()), np.zeros(len(SIGNALS)))
        is_one_value = self.signals.min(0) == self.signals.max(0)
        return np.where(is_one_value, 0.0, np.sqrt(squares / len(self.offsets)))

    def _parts(self) -> Iterator[tuple[slice, Floats]]:
        """The signals in double precision, some rows at a time."""
        for start in range(0, len(self.offsets), _ROWS):
            part = slice(start, start + _ROWS)
            yield part, self.signals[part].astype(np.float64)


def _lowest(loss: Loss, start: Floats, bounds: list[Bounds]) -> Floats:
    """Where a convex function is lowest.

    In single precision a search along a line can fail near the end or halfway. So the optimiser starts again where it
    stopped, until it has ended or the slope within the bounds is nearly 0.

    Raises:
        ExportError: it never came so far.
    """
    low, high = (
        np.array([np.inf * sign if end is None else end for end in ends])
        for sign, ends in zip((-1, 1), zip(*bounds, strict=True), strict=True)
    )
    for _ in range(_TRIES):
        found = minimize(loss, start, method="L-BFGS-B", jac=True, bounds=bounds)
        start = np.asarray(found.x)
        value, slope = loss(start)
        steepest = float(np.abs(np.clip(start - slope, low, high) - start).max())
        if np.isfinite(value) and (found.success or steepest <= _FLAT):
            return start
    raise ExportError(
        f"blend: the optimiser found no weights for the parts of the score, it stopped at a loss of {value:.4g} with a "
        f"slope of {steepest:.3g} ({found.message}): check --data with `swiftrec doctor`, or use another --seed"
    )
