"""The weights of a score's parts: those under which what users took next was most likely.

A multinomial logit over the catalogue (McFadden, 1974): its log-likelihood is concave in the weights, so there is one
best answer. Signals are scaled by their spread before the penalty looks at them. Large catalogues are sampled: the item
that was wanted and every item that memory or words name are kept, and each of the others drawn stands for many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from server.catalogue.blend import SIGNALS, Weights

Floats = NDArray[np.float64]

_PENALTY = 1e-3  # of the squared distance from where weights start, beside a mean log-likelihood
_NEARBY = 20.0  # the same of a group's weights from those of all groups, divided by the group's cases
_FREE = {"newcomer"}  # signals whose weight may be negative


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
    """
    if not choices:
        return start or Weights()
    problem = _Problem.of(choices)
    first = np.zeros(len(SIGNALS)) if start is None else np.array([getattr(start, name) for name in SIGNALS])
    penalty = _PENALTY if start is None else _NEARBY / len(choices)
    found = problem.solve(first, penalty)
    return Weights(**{name: float(weight) for name, weight in zip(SIGNALS, found, strict=True)})


def likelihood(choices: Sequence[Choices], weights: Weights) -> float:
    """Mean logarithm of the chance of what was wanted."""
    values = np.array([getattr(weights, name) for name in SIGNALS])
    return -_Problem.of(choices).loss(values, values, 0.0)[0]


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
        scale = self.signals.std(0, dtype=np.float64)
        used = scale > 0  # a signal that is the same for all says nothing
        scale = np.where(used, scale, 1.0)
        divided = np.divide(self.signals, scale, dtype=np.float32)
        scaled = _Problem(divided, self.offsets, self.starts)
        bounds = [(None if name in _FREE else 0.0, None if on else 0.0) for name, on in zip(SIGNALS, used, strict=True)]
        bounds = [(low if on else 0.0, high) for (low, high), on in zip(bounds, used, strict=True)]
        start = np.where(used, first * scale, 0.0)
        found = minimize(scaled.loss, start + 0.1 * used, (start, penalty), "L-BFGS-B", jac=True, bounds=bounds)
        return np.asarray(found.x) / scale

    def loss(self, weights: Floats, near: Floats, penalty: float) -> tuple[float, Floats]:
        """Mean -log P of the wanted items plus the penalty, and its gradient."""
        scores = self.signals @ weights.astype(np.float32) + self.offsets
        highest = np.maximum.reduceat(scores, self.starts)
        sizes = np.diff(np.append(self.starts, len(scores)))
        chances = np.exp(scores - np.repeat(highest, sizes)).astype(np.float64)
        totals = np.add.reduceat(chances, self.starts)
        log_chance = scores[self.starts] - highest - np.log(totals)
        expected = np.add.reduceat(self.signals * (chances / np.repeat(totals, sizes))[:, None], self.starts, axis=0)
        away, count = weights - near, len(self.starts)
        gradient = (expected - self.signals[self.starts]).sum(0) / count
        return float(-log_chance.mean() + penalty * away @ away), gradient + 2 * penalty * away
