"""Where items stand that nobody took in training: a map from their texts, fitted on the items that were taken.

What the teacher writes of a text that it has trained on is learned by heart and says little of how it does with others.
So the map starts from the checkpoint as it came: ridge regression from its text vectors to the trained item vectors
(Gantner et al., "Learning Attribute-to-Feature Mappings for Cold-Start Recommendations", ICDM 2010). It draws every
item towards the mean, where nothing reaches a top ten; therefore one more vector raises newcomers for all users alike,
until items that are held out and mapped have together the share of the softmax over the catalogue that their own
vectors give them. The strength is that by which held-out items explain best what users took next. Users and what they
took next are those that validate; nothing here sees a test. A ranker that is trained again keeps what was chosen.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from swiftrec.export.data.split import Histories

Vectors = NDArray[np.float32]
Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
Texts = Callable[[Rows], Vectors]
"""Items, int64 [n] -> the vectors of their texts, float32 [n, hidden]."""

STRENGTHS = (0.1, 0.3, 1.0, 3.0)  # of the mean variance of a text vector's entries
FOLDS = 10
_VECTORS, _FOLDS, _CHOICE = "as-new.npy", "folds.npy", "newcomers.json"
_BLOCK = 65_536  # texts looked at a time: 200 MB at a width of 384
_CELLS = 1 << 23  # scores held at a time: 67 MB for each of the few arrays of that size
_EVEN = 1e-4  # damping of the vector that raises, for rankers whose users lie in no plane
_LEAST = 1e-12  # damping of texts that are all the same, of which a regression learns nothing
_REACH, _HALVINGS = 20.0, 50


@dataclass(frozen=True, slots=True)
class Crowd:
    """Users who validate: `vectors` [users, d], the items that each may not be recommended, and the one taken next.

    `wanted` is int64 [users].
    """

    vectors: Vectors
    masked: Histories
    wanted: Rows


@dataclass(frozen=True, slots=True)
class _Sums:
    """What a ridge regression must know of its rows; parts can be taken away again."""

    count: float
    x: Floats
    y: Floats
    xx: Floats
    xy: Floats

    @classmethod
    def of(cls, texts: Texts, items: Vectors, rows: Rows) -> _Sums:
        """Of the given rows, one block after the other."""
        blocks = (rows[part] for part in _blocks(rows))
        return functools.reduce(_Sums.plus, (cls._block(texts(some), items[some]) for some in blocks))

    @classmethod
    def _block(cls, x: Vectors, y: Vectors) -> _Sums:
        a, b = x.astype(np.float64), y.astype(np.float64)
        return cls(len(a), a.sum(0), b.sum(0), a.T @ a, a.T @ b)

    def plus(self, other: _Sums, sign: float = 1.0) -> _Sums:
        """With the rows of `other`; without them if `sign` is -1."""
        pairs = zip(self._fields(), other._fields(), strict=True)
        count, x, y, xx, xy = (a + sign * b for a, b in pairs)
        return _Sums(float(count), x, y, xx, xy)

    def _fields(self) -> tuple[Floats, ...]:
        return np.asarray(self.count), self.x, self.y, self.xx, self.xy

    def map(self, texts: Texts, rows: Rows, strength: float) -> Vectors:
        """The regression's answer at the given rows, [rows, d]."""
        x, y = self.x / self.count, self.y / self.count
        spread = self.xx / self.count - np.outer(x, x)
        damping = max(strength * np.trace(spread) / len(spread), _LEAST) * np.eye(len(spread))
        weights = np.linalg.solve(spread + damping, self.xy / self.count - np.outer(x, y)).astype(np.float32)
        x, y = x.astype(np.float32), y.astype(np.float32)
        answer = np.empty((len(rows), len(y)), np.float32)
        for part in _blocks(rows):
            answer[part] = (texts(rows[part]) - x) @ weights + y
        return answer


def _blocks(rows: Rows) -> Iterator[slice]:
    return (slice(start, start + _BLOCK) for start in range(0, len(rows), _BLOCK))


@dataclass(frozen=True, slots=True)
class Choice:
    """What users who validate say of the map: its strength, and what is added to the scores of newcomers (`rise`)."""

    strength: float
    rise: float

    @classmethod
    def load(cls, folder: Path) -> Choice | None:
        """Read what `Placed.save` wrote; None if there was too little to learn from."""
        path = folder / _CHOICE
        return cls(**json.loads(path.read_text())) if path.exists() else None


@dataclass(frozen=True, slots=True)
class Placed:
    """Every item as if it was new.

    Args:
        vectors: float32 [items, d], made from the items' texts; of an item that was taken without looking at its own.
        folds: int64 [items], which of `FOLDS` parts was left out for it; -1 for items that nobody took.
        choice: by which they were made; None for a stand-in of them.
    """

    vectors: Vectors
    folds: Rows
    choice: Choice | None = None

    def save(self, folder: Path) -> None:
        """Write `as-new.npy`, `folds.npy` and `newcomers.json`."""
        np.save(folder / _VECTORS, self.vectors, allow_pickle=False)
        np.save(folder / _FOLDS, self.folds, allow_pickle=False)
        if self.choice is not None:
            (folder / _CHOICE).write_text(json.dumps(asdict(self.choice)))

    @classmethod
    def load(cls, folder: Path) -> Placed | None:
        """Map what `save` wrote; None if there was too little to learn from."""
        if not (folder / _VECTORS).exists():
            return None
        vectors = np.load(folder / _VECTORS, mmap_mode="r", allow_pickle=False)
        return cls(vectors, np.load(folder / _FOLDS, allow_pickle=False), Choice.load(folder))


def can_place(is_taken: NDArray[np.bool_]) -> bool:
    """Whether enough items were taken to learn from."""
    return int(is_taken.sum()) >= 2 * FOLDS


def place_newcomers(
    texts: Texts, items: Vectors, is_taken: NDArray[np.bool_], crowd: Crowd, seed: int
) -> Placed | None:
    """Where each item would stand if nobody had taken it; None if too little says where.

    Args:
        texts: the checkpoint's own vectors of the items' texts, asked for in blocks.
        items: item vectors, [items, d]; those of newcomers are not read.
        is_taken: whether anybody took the item in training.
        crowd: users, to whom what they took next was never shown in training.
        seed: of the folds.
    """
    if not can_place(is_taken):
        return None
    taken = np.flatnonzero(is_taken)
    folds = np.random.default_rng(seed).permutation(len(taken)) % FOLDS
    held = _Held.of(crowd, items[taken], is_taken, folds)
    if not len(held.wanted):
        return None
    parts = [_Sums.of(texts, items, taken[folds == n]) for n in range(FOLDS)]
    trials = {strength: held.trial(_without_own(parts, texts, taken, folds, strength)) for strength in STRENGTHS}
    best = min(STRENGTHS, key=lambda strength: trials[strength][0])
    choice = Choice(best, trials[best][1])
    placed = np.empty_like(items)
    placed[taken] = _without_own(parts, texts, taken, folds, best)
    placed[~is_taken] = functools.reduce(_Sums.plus, parts).map(texts, np.flatnonzero(~is_taken), best)
    every = np.full(len(items), -1)
    every[taken] = folds
    return Placed(placed + np.float32(choice.rise) * raising(crowd.vectors), every, choice)


def place_again(texts: Texts, items: Vectors, is_taken: NDArray[np.bool_], users: Vectors, choice: Choice) -> Vectors:
    """The vectors of the items that nobody took, for a ranker that was trained again: nothing is chosen by its users.

    The users of that ranker have trained it with all of their events, so what they took next says nothing of new items.

    Args:
        texts: as for `place_newcomers`.
        items: item vectors, [items, d]; those of newcomers are not read.
        is_taken: whether anybody took the item in training; at least one was taken.
        users: user vectors, [users, d].
        choice: what was chosen for the ranker before.
    """
    taken, new = np.flatnonzero(is_taken), np.flatnonzero(~is_taken)
    mapped = _Sums.of(texts, items, taken).map(texts, new, choice.strength)
    return mapped + np.float32(choice.rise) * raising(users)


def _without_own(parts: list[_Sums], texts: Texts, taken: Rows, folds: Rows, strength: float) -> Vectors:
    """The map of each item that was taken, fitted on the other folds, [taken, d]."""
    whole = functools.reduce(_Sums.plus, parts)
    mapped = np.empty((len(taken), len(whole.y)), np.float32)
    for n, part in enumerate(parts):
        mapped[folds == n] = whole.plus(part, -1.0).map(texts, taken[folds == n], strength)
    return mapped


def raising(users: Vectors) -> Vectors:
    """A vector whose product with every user [users, d] is as near to 1 as can be, float32 [d]."""
    a = users.astype(np.float64)
    spread = a.T @ a / len(a)
    damping = _EVEN * np.trace(spread) / len(spread) * np.eye(len(spread))
    found: Vectors = np.linalg.solve(spread + damping, a.mean(0)).astype(np.float32)
    return found


@dataclass(frozen=True, slots=True)
class _Held:
    """The users' softmax over the items that were taken, of which one fold at a time is held out and mapped.

    `totals` [users] is its logarithmic sum, `share` [users, folds] how much of it each fold has with its own vectors;
    `seen` and `wanted` are places among the items that were taken, `own` the logarithm of the chance of `wanted`.
    """

    users: Vectors
    seen: list[Rows]
    folds: Rows
    wanted: Rows
    totals: Floats
    share: Floats
    own: Floats

    @classmethod
    def of(cls, crowd: Crowd, items: Vectors, is_taken: NDArray[np.bool_], folds: Rows) -> _Held:
        """Users whose wanted item was not taken in training are left out; `items` are those that were taken."""
        kept, place = np.flatnonzero(is_taken[crowd.wanted]), np.cumsum(is_taken) - 1
        users, wanted = crowd.vectors[kept], place[crowd.wanted[kept]]
        seen = []
        for n in kept:
            masked = crowd.masked[n]
            seen.append(place[masked[is_taken[masked] & (masked != crowd.wanted[n])]])
        totals, own, share = np.empty(len(kept)), np.empty(len(kept)), np.empty((len(kept), FOLDS))
        for part, scores in _scores(users, seen, items):
            totals[part] = np.logaddexp.reduce(scores, axis=1)
            scores -= totals[part, None]
            own[part] = scores[np.arange(len(scores)), wanted[part]]
            share[part] = _by_fold(np.exp(scores), folds)
        return cls(users, seen, folds, wanted, totals, share, own)

    def trial(self, mapped: Vectors) -> tuple[float, float]:
        """With the held items at `mapped`: mean -log P of what was taken next, over users and folds; and the rise."""
        rows = np.arange(len(self.wanted))
        share, own = np.empty_like(self.share), np.empty_like(self.own)
        for part, scores in _scores(self.users, self.seen, mapped):
            scores -= self.totals[part, None]
            own[part] = scores[np.arange(len(scores)), self.wanted[part]]
            share[part] = _by_fold(np.exp(scores), self.folds)
        rise = _rise(share, 1 - self.share, float(self.share.sum()))
        totals = np.log(1 - self.share + np.exp(rise) * share)
        chances = self.own[:, None] - totals
        fold = self.folds[self.wanted]
        chances[rows, fold] = own + rise - totals[rows, fold]
        return float(-chances.mean()), rise


def _scores(users: Vectors, seen: list[Rows], items: Vectors) -> Iterator[tuple[slice, Floats]]:
    """Scores [some users, items] without those that a user has seen, some users at a time."""
    size = max(1, _CELLS // len(items))
    for start in range(0, len(users), size):
        part = slice(start, start + size)
        scores = (users[part] @ items.T).astype(np.float64)
        for row, places in zip(scores, seen[part], strict=True):
            row[places] = -np.inf
        yield part, scores


def _by_fold(values: Floats, folds: Rows) -> Floats:
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
