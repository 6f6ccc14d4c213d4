"""Where items stand that nobody took in training: a map from their texts, fitted on the items that were taken.

What the teacher writes of a text that it has trained on is learned by heart and says little of how it does with others.
So the map starts from the checkpoint as it came: ridge regression from its text vectors to the trained item vectors
(Gantner et al., "Learning Attribute-to-Feature Mappings for Cold-Start Recommendations", ICDM 2010). It draws every
item towards the mean, where nothing reaches a top ten; therefore one more vector raises newcomers for all users alike,
until items that are held out and mapped have together the share of the softmax over the catalogue that their own
vectors give them. The strength is that by which held-out items explain best what users took next. Users and what they
took next are those that validate; nothing here sees a test.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.data.split import Histories

Vectors = NDArray[np.float32]
Floats = NDArray[np.float64]

STRENGTHS = (0.1, 0.3, 1.0, 3.0)  # of the mean variance of a text vector's entries
FOLDS = 10
_MAX_SCORES = 20_000_000  # users times items: 160 MB for each of the few arrays of that size
_MIN_USERS = 20
_EVEN = 1e-4  # damping of the vector that raises, for rankers whose users lie in no plane
_REACH, _HALVINGS = 20.0, 50


@dataclass(frozen=True, slots=True)
class Crowd:
    """Users who validate: `vectors` [users, d], what each has taken, and what he took next (int64 [users])."""

    vectors: Vectors
    histories: Histories
    wanted: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Sums:
    """What a ridge regression must know of its rows; parts can be taken away again."""

    count: float
    x: Floats
    y: Floats
    xx: Floats
    xy: Floats

    @classmethod
    def of(cls, x: Vectors, y: Vectors) -> _Sums:
        a, b = x.astype(np.float64), y.astype(np.float64)
        return cls(len(a), a.sum(0), b.sum(0), a.T @ a, a.T @ b)

    def plus(self, other: _Sums, sign: float = 1.0) -> _Sums:
        """With the rows of `other`; without them if `sign` is -1."""
        pairs = zip(self._fields(), other._fields(), strict=True)
        count, x, y, xx, xy = (a + sign * b for a, b in pairs)
        return _Sums(float(count), x, y, xx, xy)

    def _fields(self) -> tuple[Floats, ...]:
        return np.asarray(self.count), self.x, self.y, self.xx, self.xy

    def map(self, at: Vectors, strength: float) -> Vectors:
        """The regression's answer at `at` [rows, hidden]: [rows, d]."""
        x, y = self.x / self.count, self.y / self.count
        spread = self.xx / self.count - np.outer(x, x)
        damping = strength * np.trace(spread) / len(spread) * np.eye(len(spread))
        weights = np.linalg.solve(spread + damping, self.xy / self.count - np.outer(x, y))
        answer: Vectors = ((at - x) @ weights + y).astype(np.float32)
        return answer


def place_newcomers(
    texts: Vectors, items: Vectors, is_taken: NDArray[np.bool_], crowd: Crowd, seed: int
) -> Vectors | None:
    """Vectors of the items that nobody took, float32 [newcomers, d]; None if there are none or too little says where.

    Args:
        texts: the checkpoint's own vectors of the items' texts, [items, hidden].
        items: item vectors, [items, d]; those of newcomers are not read.
        is_taken: whether anybody took the item in training.
        crowd: users, to whom what they took next was never shown in training.
        seed: of the folds and of the sample of users.
    """
    taken = np.flatnonzero(is_taken)
    if len(taken) < 2 * FOLDS or is_taken.all():
        return None
    rng = np.random.default_rng(seed)
    folds = rng.permutation(len(taken)) % FOLDS
    held = _Held.of(_sample(crowd, len(taken), rng), items[taken], taken, folds)
    if not len(held.wanted):
        return None
    parts = [_Sums.of(texts[taken[folds == n]], items[taken[folds == n]]) for n in range(FOLDS)]
    whole = functools.reduce(_Sums.plus, parts)
    trials = {}
    for strength in STRENGTHS:
        mapped = np.empty_like(items[taken])
        for n, part in enumerate(parts):
            mapped[folds == n] = whole.plus(part, -1.0).map(texts[taken[folds == n]], strength)
        trials[strength] = held.trial(mapped)
    best = min(STRENGTHS, key=lambda strength: trials[strength][0])
    placed: Vectors = whole.map(texts[~is_taken], best) + np.float32(trials[best][1]) * raising(crowd.vectors)
    return placed


def raising(users: Vectors) -> Vectors:
    """A vector whose product with every user [users, d] is as near to 1 as can be, float32 [d]."""
    a = users.astype(np.float64)
    spread = a.T @ a / len(a)
    damping = _EVEN * np.trace(spread) / len(spread) * np.eye(len(spread))
    found: Vectors = np.linalg.solve(spread + damping, a.mean(0)).astype(np.float32)
    return found


def _sample(crowd: Crowd, items: int, rng: np.random.Generator) -> Crowd:
    some = np.sort(rng.permutation(len(crowd.wanted))[: max(_MIN_USERS, _MAX_SCORES // items)])
    return Crowd(crowd.vectors[some], [crowd.histories[n] for n in some], crowd.wanted[some])


@dataclass(frozen=True, slots=True)
class _Held:
    """The users' softmax over the items that were taken, of which one fold at a time is held out and mapped.

    `totals` [users] is its logarithmic sum, `share` [users, folds] how much of it each fold has with its own vectors;
    `wanted` are places among the items that were taken, `own` the logarithm of their chance.
    """

    users: Vectors
    seen: NDArray[np.bool_]
    folds: NDArray[np.int64]
    wanted: NDArray[np.int64]
    totals: Floats
    share: Floats
    own: Floats

    @classmethod
    def of(cls, crowd: Crowd, items: Vectors, taken: NDArray[np.int64], folds: NDArray[np.int64]) -> _Held:
        """Users whose wanted item was not taken in training are left out."""
        kept = np.flatnonzero(np.isin(crowd.wanted, taken))
        users, wanted = crowd.vectors[kept], np.searchsorted(taken, crowd.wanted[kept])
        seen = np.zeros((len(kept), len(taken)), dtype=bool)
        for row, n in zip(seen, kept, strict=True):
            row[:] = np.isin(taken, crowd.histories[n])
        seen[np.arange(len(kept)), wanted] = False  # some take the same item again
        scores = np.where(seen, -np.inf, users @ items.T).astype(np.float64)
        totals = np.logaddexp.reduce(scores, axis=1)
        own = scores[np.arange(len(kept)), wanted] - totals
        return cls(users, seen, folds, wanted, totals, _by_fold(np.exp(scores - totals[:, None]), folds), own)

    def trial(self, mapped: Vectors) -> tuple[float, float]:
        """With the held items at `mapped`: mean -log P of what was taken next, over users and folds; and the rise."""
        rows = np.arange(len(self.wanted))
        scores = np.where(self.seen, -np.inf, self.users @ mapped.T) - self.totals[:, None]
        share = _by_fold(np.exp(scores), self.folds)
        rise = _rise(share, 1 - self.share, float(self.share.sum()))
        totals = np.log(1 - self.share + np.exp(rise) * share)
        chances = self.own[:, None] - totals
        fold = self.folds[self.wanted]
        chances[rows, fold] = scores[rows, self.wanted] + rise - totals[rows, fold]
        return float(-chances.mean()), rise


def _by_fold(values: Floats, folds: NDArray[np.int64]) -> Floats:
    """Sums over the items of each fold, [users, folds]."""
    return np.stack([values[:, folds == n].sum(1) for n in range(FOLDS)], axis=1)


def _rise(held: Floats, rest: Floats, wanted: float) -> float:
    """What must be added to the scores of held items so that they have the share `wanted`, by halving."""
    low, high = -_REACH, _REACH
    for _ in range(_HALVINGS):
        rise = (low + high) / 2
        raised = np.exp(rise) * held
        low, high = (rise, high) if float((raised / (rest + raised)).sum()) < wanted else (low, rise)
    return rise
