"""Vectors of items without interactions: a map from their texts, fitted on the items with interactions.

The teacher has overfitted to the texts that it was trained on, so its vectors of them say little about new texts.
Therefore the map starts from the checkpoint before fine-tuning: ridge regression from its text vectors to the trained
item vectors (Gantner et al., "Learning Attribute-to-Feature Mappings for Cold-Start Recommendations", ICDM 2010). The
regression shrinks every item towards the mean, where nothing reaches a top ten; so a boost raises the cold items for
all users alike, until items that are held out and mapped have together the share of the softmax over the catalogue that
their trained vectors give them. The strength of the regression is the one with which held-out items best explain the
next items of the validation users; no test item is used. A ranker that is trained again keeps both choices.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from swiftrec.export.arrays import Histories
from swiftrec.server.arrays import Floats, Mask, Positions, Vectors

TextVectors = Callable[[Positions], Vectors]
"""Items, int64 [n] -> the vectors of their texts, float32 [n, hidden]."""

STRENGTHS = (0.1, 0.3, 1.0, 3.0)  # of the mean variance of a text vector's entries
FOLDS = 10
_VECTORS, _FOLDS, _CHOICE = "cold_vectors.npy", "cold_folds.npy", "cold_map.json"
_BLOCK_ROWS = 65_536  # texts at a time: 200 MB at a width of 384
_BLOCK_SCORES = 1 << 23  # 67 MB for each of a few arrays
_BOOST_DAMPING = 1e-4  # share of the mean variance of the user vectors
_MIN_DAMPING = 1e-12  # for texts that are all the same
_MAX_BOOST, _BISECTIONS = 20.0, 50


@dataclass(frozen=True, slots=True)
class ValidationUsers:
    """Users with a validation item.

    Args:
        vectors: user vectors, float32 [users, d].
        masked: the items that may not be recommended to each user.
        targets: the next item of each user, int64 [users].
    """

    vectors: Vectors
    masked: Histories
    targets: Positions


@dataclass(frozen=True, slots=True)
class _Sums:
    """The sums over rows that a ridge regression needs; those of some rows can be subtracted again."""

    count: float
    x: Floats
    y: Floats
    xx: Floats
    xy: Floats

    @classmethod
    def over(cls, texts: TextVectors, items: Vectors, rows: Positions) -> _Sums:
        """Over the given rows, one block after the other."""
        blocks = (rows[part] for part in _blocks(rows))
        return functools.reduce(_Sums.plus, (cls._block(texts(block), items[block]) for block in blocks))

    @classmethod
    def _block(cls, x: Vectors, y: Vectors) -> _Sums:
        a, b = x.astype(np.float64), y.astype(np.float64)
        return cls(len(a), a.sum(0), b.sum(0), a.T @ a, a.T @ b)

    def plus(self, other: _Sums, sign: float = 1.0) -> _Sums:
        """Add the rows of `other`; subtract them if `sign` is -1."""
        pairs = zip(self._fields(), other._fields(), strict=True)
        count, x, y, xx, xy = (a + sign * b for a, b in pairs)
        return _Sums(float(count), x, y, xx, xy)

    def _fields(self) -> tuple[Floats, ...]:
        return np.asarray(self.count), self.x, self.y, self.xx, self.xy

    def map(self, texts: TextVectors, rows: Positions, strength: float) -> Vectors:
        """The predictions of the regression at the given rows, [rows, d]."""
        x, y = self.x / self.count, self.y / self.count
        spread = self.xx / self.count - np.outer(x, x)
        damping = max(strength * np.trace(spread) / len(spread), _MIN_DAMPING) * np.eye(len(spread))
        weights = np.linalg.solve(spread + damping, self.xy / self.count - np.outer(x, y)).astype(np.float32)
        x, y = x.astype(np.float32), y.astype(np.float32)
        mapped = np.empty((len(rows), len(y)), np.float32)
        for part in _blocks(rows):
            mapped[part] = (texts(rows[part]) - x) @ weights + y
        return mapped


def _blocks(rows: Positions) -> Iterator[slice]:
    return (slice(start, start + _BLOCK_ROWS) for start in range(0, len(rows), _BLOCK_ROWS))


@dataclass(frozen=True, slots=True)
class ColdMap:
    """What was chosen on the validation users: the strength of the regression, and the boost of cold items' scores."""

    strength: float
    boost: float

    @classmethod
    def load(cls, folder: Path) -> ColdMap | None:
        """Read the file of `ColdVectors.save`; None if the training data had too few items."""
        path = folder / _CHOICE
        return cls(**json.loads(path.read_text())) if path.exists() else None


@dataclass(frozen=True, slots=True)
class ColdVectors:
    """The vector of every item as if it had no interactions.

    Args:
        vectors: float32 [items, d], from the items' texts; that of an item with interactions is from a regression
            without it.
        folds: int64 [items], which of `FOLDS` parts was held out for it; -1 for items without interactions.
        cold_map: how they were computed; None for a stand-in.
    """

    vectors: Vectors
    folds: Positions
    cold_map: ColdMap | None = None

    def save(self, folder: Path) -> None:
        """Write `cold_vectors.npy`, `cold_folds.npy` and `cold_map.json`."""
        np.save(folder / _VECTORS, self.vectors, allow_pickle=False)
        np.save(folder / _FOLDS, self.folds, allow_pickle=False)
        if self.cold_map is not None:
            (folder / _CHOICE).write_text(json.dumps(asdict(self.cold_map)))

    @classmethod
    def load(cls, folder: Path) -> ColdVectors | None:
        """Map the files of `save`; None if the training data had too few items."""
        if not (folder / _VECTORS).exists():
            return None
        vectors = np.load(folder / _VECTORS, mmap_mode="r", allow_pickle=False)
        return cls(vectors, np.load(folder / _FOLDS, allow_pickle=False), ColdMap.load(folder))


def can_map(has_events: Mask) -> bool:
    """Whether enough items have interactions to fit the regression."""
    return int(has_events.sum()) >= 2 * FOLDS


def map_cold_items(
    texts: TextVectors, items: Vectors, has_events: Mask, users: ValidationUsers, seed: int
) -> ColdVectors | None:
    """The vector of each item as if it had no interactions; None if there is too little data to fit them.

    Args:
        texts: the untuned checkpoint's vectors of the items' texts, read in blocks.
        items: item vectors, [items, d]; those of items without interactions are not read.
        has_events: whether the item has training events.
        users: whose targets training has not seen.
        seed: of the folds.
    """
    if not can_map(has_events):
        return None
    warm = np.flatnonzero(has_events)
    folds = np.random.default_rng(seed).permutation(len(warm)) % FOLDS
    held_out = _HeldOut.of(users, items[warm], has_events, folds)
    if not len(held_out.targets):
        return None
    parts = [_Sums.over(texts, items, warm[folds == n]) for n in range(FOLDS)]
    trials = {strength: held_out.trial(_cross_mapped(parts, texts, warm, folds, strength)) for strength in STRENGTHS}
    best = min(STRENGTHS, key=lambda strength: trials[strength][0])
    cold_map = ColdMap(best, trials[best][1])
    vectors = np.empty_like(items)
    vectors[warm] = _cross_mapped(parts, texts, warm, folds, best)
    vectors[~has_events] = functools.reduce(_Sums.plus, parts).map(texts, np.flatnonzero(~has_events), best)
    item_folds = np.full(len(items), -1)
    item_folds[warm] = folds
    return ColdVectors(vectors + np.float32(cold_map.boost) * boost_vector(users.vectors), item_folds, cold_map)


def map_cold_items_again(
    texts: TextVectors, items: Vectors, has_events: Mask, users: Vectors, cold_map: ColdMap
) -> Vectors:
    """The vectors of the items without interactions, for a ranker that was trained again.

    That ranker was trained on all events of its users, so they cannot choose the map.

    Args:
        texts: as for `map_cold_items`.
        items: item vectors, [items, d]; those of items without interactions are not read.
        has_events: whether the item has training events; at least one has.
        users: user vectors, [users, d].
        cold_map: chosen for the ranker before.
    """
    warm, cold = np.flatnonzero(has_events), np.flatnonzero(~has_events)
    mapped = _Sums.over(texts, items, warm).map(texts, cold, cold_map.strength)
    return mapped + np.float32(cold_map.boost) * boost_vector(users)


def _cross_mapped(
    parts: list[_Sums], texts: TextVectors, warm: Positions, folds: Positions, strength: float
) -> Vectors:
    """The map of each item with interactions, fitted on the other folds, [warm, d]."""
    total = functools.reduce(_Sums.plus, parts)
    mapped = np.empty((len(warm), len(total.y)), np.float32)
    for n, part in enumerate(parts):
        mapped[folds == n] = total.plus(part, -1.0).map(texts, warm[folds == n], strength)
    return mapped


def boost_vector(users: Vectors) -> Vectors:
    """The vector, float32 [d], whose products with all users [users, d] are nearest to 1."""
    a = users.astype(np.float64)
    spread = a.T @ a / len(a)
    damping = _BOOST_DAMPING * np.trace(spread) / len(spread) * np.eye(len(spread))
    vector: Vectors = np.linalg.solve(spread + damping, a.mean(0)).astype(np.float32)
    return vector


@dataclass(frozen=True, slots=True)
class _HeldOut:
    """The users' softmax over the items with interactions, of which one fold at a time is held out and mapped.

    Args:
        users: user vectors, [users, d].
        masked: positions that may not be recommended to each user, among the items with interactions.
        folds: of these items, int64 [items].
        targets: positions of the next items, int64 [users].
        totals: logarithm of the sum of the softmax, [users].
        share: of each fold in the sum with its trained vectors, [users, folds].
        target_log_p: logarithm of the probability of `targets`, [users].
    """

    users: Vectors
    masked: list[Positions]
    folds: Positions
    targets: Positions
    totals: Floats
    share: Floats
    target_log_p: Floats

    @classmethod
    def of(cls, users: ValidationUsers, items: Vectors, has_events: Mask, folds: Positions) -> _HeldOut:
        """Users whose target has no training events are left out; `items` are those with events."""
        kept, position = np.flatnonzero(has_events[users.targets]), np.cumsum(has_events) - 1
        vectors, targets = users.vectors[kept], position[users.targets[kept]]
        masked = []
        for n in kept:
            row = users.masked[n]
            masked.append(position[row[has_events[row] & (row != users.targets[n])]])
        totals, log_p, share = np.empty(len(kept)), np.empty(len(kept)), np.empty((len(kept), FOLDS))
        for part, scores in _scores(vectors, masked, items):
            totals[part] = np.logaddexp.reduce(scores, axis=1)
            scores -= totals[part, None]
            log_p[part] = scores[np.arange(len(scores)), targets[part]]
            share[part] = _by_fold(np.exp(scores), folds)
        return cls(vectors, masked, folds, targets, totals, share, log_p)

    def trial(self, mapped: Vectors) -> tuple[float, float]:
        """With `mapped` vectors of held-out items: mean -log P of the targets over users and folds, and the boost."""
        rows = np.arange(len(self.targets))
        share, mapped_log_p = np.empty_like(self.share), np.empty_like(self.target_log_p)
        for part, scores in _scores(self.users, self.masked, mapped):
            scores -= self.totals[part, None]
            mapped_log_p[part] = scores[np.arange(len(scores)), self.targets[part]]
            share[part] = _by_fold(np.exp(scores), self.folds)
        boost = _solve_boost(share, 1 - self.share, float(self.share.sum()))
        totals = np.log(1 - self.share + np.exp(boost) * share)
        log_p = self.target_log_p[:, None] - totals
        fold = self.folds[self.targets]
        log_p[rows, fold] = mapped_log_p + boost - totals[rows, fold]
        return float(-log_p.mean()), boost


def _scores(users: Vectors, masked: list[Positions], items: Vectors) -> Iterator[tuple[slice, Floats]]:
    """Scores [users, items] in blocks of users; masked items have -inf."""
    size = max(1, _BLOCK_SCORES // len(items))
    for start in range(0, len(users), size):
        part = slice(start, start + size)
        scores = (users[part] @ items.T).astype(np.float64)
        for row, positions in zip(scores, masked[part], strict=True):
            row[positions] = -np.inf
        yield part, scores


def _by_fold(values: Floats, folds: Positions) -> Floats:
    """Sums over the items of each fold, [users, folds]."""
    return np.stack([values[:, folds == n].sum(1) for n in range(FOLDS)], axis=1)


def _solve_boost(held_out: Floats, rest: Floats, target: float) -> float:
    """What must be added to the scores of held-out items so that their share is `target`, by bisection."""
    low, high = -_MAX_BOOST, _MAX_BOOST
    for _ in range(_BISECTIONS):
        boost = (low + high) / 2
        boosted = np.exp(boost) * held_out
        low, high = (boost, high) if float((boosted / (rest + boosted)).sum()) < target else (low, boost)
    return boost
