"""How far a figure varies by chance: a bootstrap over rounds and, within each round, over slices of time.

A run has few rounds, and requests within a round share its good or bad moment, so the round is the cluster: rounds are
drawn with replacement, and of each drawn round its slices (neighbours in a queue are correlated as well). The figure of
a run is the geometric mean over its rounds. All is in logarithms, so that a change is a ratio.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from swiftrec.server.arrays import Floats

SLICE_S = 0.25
DRAWS = 1_000
DRAWS_WITHIN = 50  # of each round, drawn from again for each of the DRAWS
_ANGLES = 100_001  # at which the distribution of t is summed up


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure of one run: its logarithm, the variance of that by chance, and in how many rounds it was measured.

    `variance` is 0 with one round: a single round has no spread.
    """

    log: float
    variance: float
    rounds: int

    @property
    def value(self) -> float:
        """The figure itself."""
        return float(np.exp(self.log))


class Bootstrap:
    """Draws with one seed, so that a comparison prints the same figures each time."""

    def __init__(self, seed: int = 0) -> None:
        self._random = np.random.default_rng(seed)

    def from_rounds(self, values: Sequence[float], within: Sequence[Floats] | None = None) -> Estimate:
        """The geometric mean of one positive value a round.

        Args:
            values: one for each round.
            within: for each round its value again from resampled slices, as `resample_slices` gives them.
        """
        logs = np.log(np.asarray(values, dtype=np.float64))
        number = len(logs)
        resampled = logs[:, None] if within is None else np.log(np.stack(within))
        rounds = self._random.integers(number, size=(DRAWS, number))
        means = resampled[rounds, self._random.integers(resampled.shape[1], size=rounds.shape)].mean(axis=1)
        return Estimate(float(logs.mean()), _variance(means, number), number)

    def resample_slices(self, slices: Sequence[Floats], figure: Callable[[Floats], float]) -> Floats:
        """A figure of a round's values again and again, each time from as many slices drawn with replacement."""
        drawn = self._random.integers(len(slices), size=(DRAWS_WITHIN, len(slices)))
        return np.array([figure(np.concatenate([slices[n] for n in row])) for row in drawn])

    def from_all(self, rounds: Sequence[Sequence[Floats]], figure: Callable[[Floats], float]) -> Estimate:
        """A figure of the values of all rounds together, for rounds with too few values for one each.

        Args:
            rounds: of each round its slices.
            figure: of values, positive.
        """
        number = len(rounds)
        value = figure(np.concatenate([part for slices in rounds for part in slices]))
        logs = np.log([figure(self._drawn(rounds)) for _ in range(DRAWS)])
        return Estimate(float(np.log(value)), _variance(logs, number), number)

    def from_any(self, number: int, figure: Callable[[Sequence[int]], float]) -> Estimate:
        """A positive figure of `number` rounds that is no mean of theirs: `figure` takes the numbers of the rounds."""
        logs = np.log([figure(row.tolist()) for row in self._random.integers(number, size=(DRAWS, number))])
        return Estimate(float(np.log(figure(range(number)))), _variance(logs, number), number)

    def _drawn(self, rounds: Sequence[Sequence[Floats]]) -> Floats:
        chosen = [rounds[n] for n in self._random.integers(len(rounds), size=len(rounds))]
        return np.concatenate(
            [slices[n] for slices in chosen for n in self._random.integers(len(slices), size=len(slices))]
        )


def _variance(logs: Floats, rounds: int) -> float:
    """The variance of the draws, corrected upwards: rounds drawn from few vary less than new rounds would."""
    return float(logs.var() * rounds / (rounds - 1)) if rounds > 1 else 0.0


def t_quantile(share: float, freedom: int) -> float:
    """The value below which Student's t with these degrees of freedom lies in this share of cases, in 0..1.

    With t = sqrt(freedom) tan(angle) its density is a power of the angle's cosine, which is summed up numerically.
    """
    angles = np.linspace(-np.pi / 2, np.pi / 2, _ANGLES)
    below = np.cumsum(np.cos(angles) ** (freedom - 1))
    return float(np.sqrt(freedom) * np.tan(np.interp(share, below / below[-1], angles)))


def sliced(values: Floats, moments: Floats) -> list[Floats]:
    """Values by slices of SLICE_S, in order of time; a slice without any is empty."""
    if not len(values):
        return []
    order = np.argsort(moments, kind="stable")
    numbers = ((moments[order] - moments[order[0]]) / SLICE_S).astype(np.int64)
    return np.split(values[order], np.searchsorted(numbers, np.arange(1, numbers[-1] + 1)))
