"""The weights of a score's parts, by maximum likelihood of the next items of users.

A multinomial logit over the catalogue (McFadden, 1974): its log-likelihood is concave in the weights, so there is one
maximum. The penalty is on signals scaled by their spread; it pulls the weights towards `_PRIOR`, less with more
requests, so that a few requests do not decide alone. Large catalogues are sampled: the target and the items with the
largest values of memory or words are kept, and each of the other items drawn stands for many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from swiftrec.export.errors import ExportError
from swiftrec.server.arrays import Floats
from swiftrec.server.catalogue.blend import SIGNALS, Weights

Loss = Callable[[Floats], tuple[float, Floats]]
Bounds = tuple[float | None, float | None]

_PRIOR = Weights(ranker=0.0, query=5.0, events=5.0, transitions=0.3, neighbours=5.0, words=0.5, popularity=0.3)
_PRIOR_PENALTY = 5.0  # of the squared distance from `_PRIOR`, divided by the cases
_GROUP_PENALTY = 20.0  # the same for the distance of a group's weights from those of all groups
_MAX_SLOPE = 1e-2  # of the gradient at the end of a fit, in log-likelihood by standard deviation of a signal
_MAX_STARTS = 5  # of the optimiser, each where the one before stopped
_UNBOUNDED = {"newcomer"}  # signals whose weight may be negative
_BLOCK_ROWS = 65_536  # choices whose signals are converted to double precision together: 4 MB


@dataclass(frozen=True, slots=True)
class Choices:
    """The items that one request could choose from, its target first.

    Args:
        signals: float32 [choices, signals], unweighted.
        offsets: float32 [choices], logarithm of the number of items that each stands for.
    """

    signals: NDArray[np.float32]
    offsets: NDArray[np.float32]


def fit_weights(choices: Sequence[Choices], start: Weights | None = None) -> Weights:
    """The weights of a kind of request; with `start`, the weights of all groups, those of one group.

    Without choices they are those of the ranker alone, or `start`.

    Raises:
        ExportError: the optimiser did not converge.
    """
    if not choices:
        return start or Weights()
    problem = _Problem.of(choices)
    near = np.array([getattr(start or _PRIOR, name) for name in SIGNALS])
    penalty = (_PRIOR_PENALTY if start is None else _GROUP_PENALTY) / len(choices)
    fitted = problem.solve(near, penalty)
    return Weights(**{name: float(weight) for name, weight in zip(SIGNALS, fitted, strict=True)})


def likelihood(choices: Sequence[Choices], weights: Weights) -> float:
    """Mean logarithm of the probability of the targets."""
    values = np.array([getattr(weights, name) for name in SIGNALS])
    return -_Problem.of(choices).loss(values)[0]


@dataclass(frozen=True, slots=True)
class _Problem:
    """All choices one after the other; those of request r begin at `starts[r]`."""

    signals: NDArray[np.float32]
    offsets: NDArray[np.float32]
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, choices: Sequence[Choices]) -> _Problem:
        sizes = np.array([len(each.offsets) for each in choices])
        signals = np.concatenate([each.signals for each in choices])
        return cls(signals, np.concatenate([each.offsets for each in choices]), np.cumsum(sizes) - sizes)

    def solve(self, first: Floats, penalty: float) -> Floats:
        scale = self._spread()
        used = scale > 0  # a constant signal has no effect
        scale = np.where(used, scale, 1.0)
        bounds = [
            (None if name in _UNBOUNDED else 0.0, None if on else 0.0) for name, on in zip(SIGNALS, used, strict=True)
        ]
        bounds = [(low if on else 0.0, high) for (low, high), on in zip(bounds, used, strict=True)]
        near = np.where(used, first * scale, 0.0)

        def loss(weights: Floats) -> tuple[float, Floats]:
            """Of weights of the scaled signals, with the penalty, and its gradient."""
            value, gradient = self.loss(weights / scale)
            away = weights - near
            return value + float(penalty * away @ away), gradient / scale + 2 * penalty * away

        return _lowest(loss, near + 0.1 * used, bounds) / scale

    def loss(self, weights: Floats) -> tuple[float, Floats]:
        """Mean -log P of the targets, and its gradient."""
        scores = self.signals @ weights.astype(np.float32) + self.offsets
        highest = np.maximum.reduceat(scores, self.starts)
        sizes = np.diff(np.append(self.starts, len(scores)))
        chances = np.exp(scores - np.repeat(highest, sizes)).astype(np.float64)
        totals = np.add.reduceat(chances, self.starts)
        log_chance = scores[self.starts] - highest - np.log(totals)
        chances /= np.repeat(totals, sizes)
        expected = sum((chances[part] @ rows for part, rows in self._parts()), np.zeros(len(SIGNALS)))
        observed = self.signals[self.starts].sum(0, dtype=np.float64)
        return float(-log_chance.mean()), (expected - observed) / len(self.starts)

    def _spread(self) -> Floats:
        """Standard deviation of each signal; exactly 0 for a constant one."""
        mean = sum((rows.sum(0) for _, rows in self._parts()), np.zeros(len(SIGNALS))) / len(self.offsets)
        squares = sum((np.square(rows - mean).sum(0) for _, rows in self._parts()), np.zeros(len(SIGNALS)))
        is_one_value = self.signals.min(0) == self.signals.max(0)
        return np.where(is_one_value, 0.0, np.sqrt(squares / len(self.offsets)))

    def _parts(self) -> Iterator[tuple[slice, Floats]]:
        """The signals in double precision, a block of rows at a time."""
        for start in range(0, len(self.offsets), _BLOCK_ROWS):
            part = slice(start, start + _BLOCK_ROWS)
            yield part, self.signals[part].astype(np.float64)


def _lowest(loss: Loss, start: Floats, bounds: list[Bounds]) -> Floats:
    """The minimum of a convex function.

    In single precision a line search can fail. So the optimiser starts again where it stopped, until it converges or
    the slope within the bounds is nearly 0.

    Raises:
        ExportError: it did not converge.
    """
    low, high = (
        np.array([np.inf * sign if end is None else end for end in ends])
        for sign, ends in zip((-1, 1), zip(*bounds, strict=True), strict=True)
    )
    for _ in range(_MAX_STARTS):
        result = minimize(loss, start, method="L-BFGS-B", jac=True, bounds=bounds)
        start = np.asarray(result.x)
        value, slope = loss(start)
        steepest = float(np.abs(np.clip(start - slope, low, high) - start).max())
        if np.isfinite(value) and (result.success or steepest <= _MAX_SLOPE):
            return start
    raise ExportError(
        f"blend: the optimiser did not find weights of the score's parts, it stopped at a loss of {value:.4g} with a "
        f"slope of {steepest:.3g} ({result.message}): check --data with `swiftrec doctor`, or use another --seed"
    )
