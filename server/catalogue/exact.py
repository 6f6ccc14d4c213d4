"""Exact search: which items may be answered, and the best of them; every allowed item is compared.

Scores are dot products row by row. A product of matrix and vector would be faster for a few thousand items, but its
result depends, in the last bits, on where a row stands, and its threads wait spinning for each other when the models
hold the cores. This way equal vectors have equal scores wherever they stand, and every search gives an item the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from swiftrec.server.catalogue.sparse import NO_BOOSTS, AnyBoosts, Positions, Vector, find_sorted

Vectors = NDArray[np.float32]
Bits = NDArray[np.uint8]

WORD_BITS = 64

_CHUNK = 16_384  # rows that are copied at once
_USERS = 32  # that are compared with all items at once
_PARTS = 8  # for each wanted item: then it is rare that two of the best share one
_HUGE = 1e37  # a product of lengths from which on sums may overflow
_CROWD = 8  # times more candidates than wanted: items are all but equal, and nothing is gained
_MAX_DENIED_LIST = 512  # more denied items are bits: a search over a list fetches as many candidates more
_DENSE = 4  # reading all rows in order is as fast as picking one of four


@dataclass(frozen=True, slots=True)
class Allowed:
    """Which of `items` may be answered, and how many: those whose bit is set; without bits all but `denied` (few).

    `denied` are ascending. `missing`: how many hold the conditions, but are denied. They may be the best of all: what a
    user has seen is.
    """

    items: int
    count: int
    bits: Bits | None
    denied: Positions
    missing: int

    def holds(self, positions: Positions) -> NDArray[np.bool_]:
        """Whether each of them may be answered."""
        return ~is_among(positions, self.denied) if self.bits is None else has_bit(positions, self.bits)

    def positions(self) -> Positions:
        """All of them, ascending."""
        if self.bits is None:
            return np.delete(np.arange(self.items), self.denied)
        return np.flatnonzero(np.unpackbits(self.bits, bitorder="little", count=self.items).view(np.bool_))


def all_but(items: int, denied: Iterable[int]) -> Allowed:
    """All of `items` may be answered but the denied positions, which may be in any order and named twice."""
    places = ascending(denied)
    count = items - len(places)
    if len(places) <= _MAX_DENIED_LIST:
        return Allowed(items, count, None, places, len(places))
    return Allowed(items, count, pack(np.delete(np.arange(items), places), items), places[:0], len(places))


def ascending(positions: Iterable[int]) -> Positions:
    """A few positions in order, each once; for a few this is faster than numpy."""
    return np.array(sorted(set(positions)), dtype=np.int64)


def pack(positions: NDArray[np.int32] | Positions, items: int) -> Bits:
    """A bit for each of `items`, set for the given positions, with zeros up to a whole number of words."""
    flags = np.zeros(-(-items // WORD_BITS) * WORD_BITS, dtype=np.bool_)
    flags[positions] = True
    return np.packbits(flags, bitorder="little")


def count_bits(bits: Bits) -> int:
    """How many bits are set."""
    return int(np.bitwise_count(bits.view(np.uint64)).sum())


def has_bit(positions: NDArray[np.int32] | Positions, bits: Bits) -> NDArray[np.bool_]:
    """Whether the bit of each position is set."""
    is_set: NDArray[np.bool_] = (bits[positions >> 3] >> (positions & 7) & 1).astype(np.bool_)
    return is_set


def is_among(positions: NDArray[np.int32] | Positions, ascending: NDArray[np.int32] | Positions) -> NDArray[np.bool_]:
    """Whether each position is one of the ascending ones."""
    return find_sorted(ascending, positions)[1]


def search(
    vectors: Vectors, user: Vector, allowed: Allowed, k: int, boosts: AnyBoosts = NO_BOOSTS
) -> tuple[Positions, Vector]:
    """The best `k` of all allowed items and their scores with `boosts` added; ties go to the earlier item."""
    if allowed.bits is not None and allowed.count * _DENSE <= len(vectors):
        return rank(vectors, user, allowed.positions(), k, boosts)
    scores = _scores(vectors, user)
    boosts.add_to(scores)
    if allowed.bits is None:
        scores[allowed.denied] = -np.inf
        return _best(None, scores, min(k, allowed.count))
    positions = allowed.positions()
    return _best(positions, scores[positions], k)


def search_many(
    vectors: Vectors,
    longest: float,
    users: Vectors,
    denied: Sequence[Positions],
    k: int,
    boosts: Sequence[AnyBoosts],
) -> list[tuple[Positions, Vector] | None]:
    """For each of `users` [users, dimensions] what `search` finds, to the bit, for less.

    One product of matrices tells for several users at once which items may be among the best, within its rounding
    error; only those are compared as `search` does it.

    Args:
        vectors: of the items.
        longest: at least the length of the longest of them.
        users: one or more.
        denied: positions of what each may not be answered.
        k: wanted for each, less than there are items.
        boosts: of each.

    Returns:
        Positions and scores; None where there is nothing to be gained: search for that one alone.
    """
    found: list[tuple[Positions, Vector] | None] = []
    for start in range(0, len(users), _USERS):
        part = slice(start, start + _USERS)
        candidates = _candidates(vectors, longest, users[part], denied[part], k, boosts[part])
        found += _ranked(vectors, users[part], candidates, k, boosts[part])
    return found


def _candidates(
    vectors: Vectors,
    longest: float,
    users: Vectors,
    denied: Sequence[Positions],
    k: int,
    boosts: Sequence[AnyBoosts],
) -> list[Positions]:
    """For each user the items that may be among the best `k`, ascending; none where that cannot be told."""
    rough = np.ascontiguousarray((vectors @ users.T).T)  # BLAS is slower the other way round
    for row, out, added in zip(rough, denied, boosts, strict=True):
        added.add_to(row)
        if len(out):
            row[out] = -np.inf
    # A sum of n products is wrong by at most n units of rounding of the lengths' product; two such sums are compared.
    size, limits = longest * np.linalg.norm(users.astype(np.float64), axis=1), np.finfo(np.float32)
    size += [np.abs(added.values).max(initial=0.0) for added in boosts]
    error = 4 * vectors.shape[1] * (limits.eps * size + limits.smallest_subnormal)
    least = (_least(rough, k) - error).astype(np.float32)
    is_sure = np.isfinite(least) & (size < _HUGE)
    is_near = rough >= np.where(is_sure, least, np.inf)[:, None]
    return [np.flatnonzero(row) for row in is_near]


def _ranked(
    vectors: Vectors, users: Vectors, candidates: Sequence[Positions], k: int, boosts: Sequence[AnyBoosts]
) -> list[tuple[Positions, Vector] | None]:
    sizes = [len(some) if k <= len(some) <= _CROWD * k else 0 for some in candidates]
    rows = np.repeat(np.arange(len(users)), sizes)
    positions = np.concatenate([some[:size] for some, size in zip(candidates, sizes, strict=True)])
    scores = np.empty(len(rows), dtype=np.float32)
    for start in range(0, len(rows), _CHUNK):
        part = slice(start, start + _CHUNK)
        scores[part] = np.vecdot(vectors[positions[part]], users[rows[part]])
    ends = np.cumsum(sizes).tolist()
    for end, size, some, added in zip(ends, sizes, candidates, boosts, strict=True):
        if size and len(added.values):
            scores[end - size : end] += added.at(some)
    order = np.lexsort((positions, -scores, rows))  # user by user, as `rows` is
    best = [order[end - size : end - size + min(k, size)] for end, size in zip(ends, sizes, strict=True)]
    return [(positions[n], scores[n]) if len(n) else None for n in best]


def rank(
    vectors: Vectors, user: Vector, positions: Positions, k: int, boosts: AnyBoosts = NO_BOOSTS
) -> tuple[Positions, Vector]:
    """The best `k` of `positions`, ascending, and their scores with `boosts` added; ties go to the earlier item."""
    scores = compare(vectors, user, positions)
    if len(boosts.values):
        scores += boosts.at(positions)
    return _best(positions, scores, k)


def compare(vectors: Vectors, user: Vector, positions: Positions) -> Vector:
    """The products of `user` with the vectors at `positions`, in their order."""
    scores = np.empty(len(positions), dtype=np.float32)
    for start in range(0, len(positions), _CHUNK):
        part = slice(start, start + _CHUNK)
        scores[part] = _scores(vectors[positions[part]], user)
    return scores


def _scores(rows: Vectors, user: Vector) -> Vector:
    scores: Vector = np.vecdot(rows, user)
    return scores


def _best(positions: Positions | None, scores: Vector, k: int) -> tuple[Positions, Vector]:
    """The best `k`; without positions those of the scores."""
    if not k:
        return np.empty(0, dtype=np.int64), scores[:0]
    near = np.flatnonzero(scores >= _least(scores, k)) if len(scores) > k else np.arange(len(scores))
    best = near[np.argsort(-scores[near], kind="stable")[:k]]
    return best if positions is None else positions[best], scores[best]


def _least(scores: Vector, k: int) -> Vector:
    """For each row of `scores` [..., items] at most its `k` th largest, and hardly less.

    Of several maxima of disjoint parts the `k` th largest is such a number, and is found in one pass over the row.
    """
    parts = _PARTS * k
    if scores.shape[-1] >= 2 * parts:
        whole = scores.shape[-1] // parts * parts
        scores = scores[..., :whole].reshape(*scores.shape[:-1], -1, parts).max(axis=-2)
    least: Vector = np.partition(scores, -k)[..., -k]
    return least
