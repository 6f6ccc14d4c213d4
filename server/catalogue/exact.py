"""Exact search: compares every candidate.

Scores are computed row by row. A matrix-vector product would be faster for a few thousand items, but the last bits of
its results depend on the position of a row, and its threads spin while the models use the cores. Row by row, equal
vectors have equal scores at any position and in every search.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from swiftrec.server.arrays import Mask, Positions, Scores, StoredPositions, Vector, Vectors
from swiftrec.server.catalogue.sparse import NO_BOOSTS, AnyBoosts, find_sorted

Bits = NDArray[np.uint8]

WORD_BITS = 64

_CHUNK_ROWS = 16_384  # copied at once
_BATCH_USERS = 32  # compared with all items at once
_PARTS_PER_RESULT = 8  # then it is rare that two of the best items are in the same part
_MAX_SAFE_PRODUCT = 1e37  # of lengths, above which sums may overflow
_MAX_CANDIDATE_FACTOR = 8  # times `k`: with more candidates, items are nearly equal and nothing is gained
_MAX_DENIED_LIST = 512  # more denied items are stored as bits: a search fetches an extra candidate for each
_DENSE_FACTOR = 4  # reading all rows sequentially is as fast as picking one in four


@dataclass(frozen=True, slots=True)
class CandidateSet:
    """The items that may be recommended: those whose bit is set, or, without bits, all but a few `denied` ones.

    Args:
        items: number of items in the catalogue.
        count: number of candidates.
        bits: a bit for each item, or None.
        denied: positions, ascending; empty if there are bits.
        denied_count: items that meet the conditions but are denied. They may have the best scores, since a user's seen
            items often do.
    """

    items: int
    count: int
    bits: Bits | None
    denied: Positions
    denied_count: int

    def contains(self, positions: Positions) -> Mask:
        """Whether each position is a candidate."""
        return ~is_among(positions, self.denied) if self.bits is None else has_bit(positions, self.bits)

    def positions(self) -> Positions:
        """All candidates, ascending."""
        if self.bits is None:
            return np.delete(np.arange(self.items), self.denied)
        return np.flatnonzero(np.unpackbits(self.bits, bitorder="little", count=self.items).view(np.bool_))


def all_but(items: int, denied: Iterable[int]) -> CandidateSet:
    """All `items` but the denied positions, which may be in any order and repeated."""
    places = ascending(denied)
    count = items - len(places)
    if len(places) <= _MAX_DENIED_LIST:
        return CandidateSet(items, count, None, places, len(places))
    return CandidateSet(items, count, pack(np.delete(np.arange(items), places), items), places[:0], len(places))


def ascending(positions: Iterable[int]) -> Positions:
    """Sort a few positions and remove duplicates; faster than numpy for a few."""
    return np.array(sorted(set(positions)), dtype=np.int64)


def pack(positions: StoredPositions | Positions, items: int) -> Bits:
    """A bit for each of `items`, set at the given positions, padded with zeros to whole words."""
    flags = np.zeros(-(-items // WORD_BITS) * WORD_BITS, dtype=np.bool_)
    flags[positions] = True
    return np.packbits(flags, bitorder="little")


def count_bits(bits: Bits) -> int:
    """The number of set bits."""
    return int(np.bitwise_count(bits.view(np.uint64)).sum())


def has_bit(positions: StoredPositions | Positions, bits: Bits) -> Mask:
    """Whether the bit of each position is set."""
    is_set: Mask = (bits[positions >> 3] >> (positions & 7) & 1).astype(np.bool_)
    return is_set


def is_among(positions: StoredPositions | Positions, ascending: NDArray[np.int32] | Positions) -> Mask:
    """Whether each position is one of the ascending ones."""
    return find_sorted(ascending, positions)[1]


def search(
    vectors: Vectors, user: Vector, allowed: CandidateSet, k: int, boosts: AnyBoosts = NO_BOOSTS
) -> tuple[Positions, Scores]:
    """The best `k` candidates and their scores, including `boosts`; ties go to the earlier item."""
    if allowed.bits is not None and allowed.count * _DENSE_FACTOR <= len(vectors):
        return top_k(vectors, user, allowed.positions(), k, boosts)
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
) -> list[tuple[Positions, Scores] | None]:
    """The results of `search` for several `users` [users, dimensions], bit for bit, but faster.

    A matrix product gives approximate scores for several users at once; the items that may be among the best, within
    its rounding error, are then compared as in `search`.

    Args:
        vectors: of the items.
        longest: upper bound of the length of an item's vector.
        users: one or more.
        denied: positions denied for each user.
        k: number of results for each user, less than the number of items.
        boosts: of each user.

    Returns:
        Positions and scores; None for users for whom `search` is faster.
    """
    results: list[tuple[Positions, Scores] | None] = []
    for start in range(0, len(users), _BATCH_USERS):
        part = slice(start, start + _BATCH_USERS)
        candidates = _candidates(vectors, longest, users[part], denied[part], k, boosts[part])
        results += _ranked(vectors, users[part], candidates, k, boosts[part])
    return results


def _candidates(
    vectors: Vectors,
    longest: float,
    users: Vectors,
    denied: Sequence[Positions],
    k: int,
    boosts: Sequence[AnyBoosts],
) -> list[Positions]:
    """The items that may be among the best `k` of each user, ascending; none if that is uncertain."""
    rough = np.ascontiguousarray((vectors @ users.T).T)  # faster in BLAS than the transposed product
    for row, excluded, added in zip(rough, denied, boosts, strict=True):
        added.add_to(row)
        if len(excluded):
            row[excluded] = -np.inf
    # The error of a sum of n products is at most n rounding units of the product of lengths; two sums are compared.
    size, limits = longest * np.linalg.norm(users.astype(np.float64), axis=1), np.finfo(np.float32)
    size += [np.abs(added.values).max(initial=0.0) for added in boosts]
    error = 4 * vectors.shape[1] * (limits.eps * size + limits.smallest_subnormal)
    least = (_least(rough, k) - error).astype(np.float32)
    is_sure = np.isfinite(least) & (size < _MAX_SAFE_PRODUCT)
    is_near = rough >= np.where(is_sure, least, np.inf)[:, None]
    return [np.flatnonzero(row) for row in is_near]


def _ranked(
    vectors: Vectors, users: Vectors, candidates: Sequence[Positions], k: int, boosts: Sequence[AnyBoosts]
) -> list[tuple[Positions, Scores] | None]:
    sizes = [len(positions) if k <= len(positions) <= _MAX_CANDIDATE_FACTOR * k else 0 for positions in candidates]
    rows = np.repeat(np.arange(len(users)), sizes)
    positions = np.concatenate([near[:size] for near, size in zip(candidates, sizes, strict=True)])
    scores = np.empty(len(rows), dtype=np.float32)
    for start in range(0, len(rows), _CHUNK_ROWS):
        part = slice(start, start + _CHUNK_ROWS)
        scores[part] = np.vecdot(vectors[positions[part]], users[rows[part]])
    ends = np.cumsum(sizes).tolist()
    for end, size, near, added in zip(ends, sizes, candidates, boosts, strict=True):
        if size and len(added.values):
            scores[end - size : end] += added.at(near)
    order = np.lexsort((positions, -scores, rows))  # user by user, as `rows` is
    best = [order[end - size : end - size + min(k, size)] for end, size in zip(ends, sizes, strict=True)]
    return [(positions[n], scores[n]) if len(n) else None for n in best]


def top_k(
    vectors: Vectors, user: Vector, positions: Positions, k: int, boosts: AnyBoosts = NO_BOOSTS
) -> tuple[Positions, Scores]:
    """The best `k` of ascending `positions` and their scores, including `boosts`; ties go to the earlier item."""
    scores = compare(vectors, user, positions)
    if len(boosts.values):
        scores += boosts.at(positions)
    return _best(positions, scores, k)


def compare(vectors: Vectors, user: Vector, positions: Positions) -> Vector:
    """The products of `user` and the vectors at `positions`, in their order."""
    scores = np.empty(len(positions), dtype=np.float32)
    for start in range(0, len(positions), _CHUNK_ROWS):
        part = slice(start, start + _CHUNK_ROWS)
        scores[part] = _scores(vectors[positions[part]], user)
    return scores


def _scores(rows: Vectors, user: Vector) -> Vector:
    scores: Scores = np.vecdot(rows, user)
    return scores


def _best(positions: Positions | None, scores: Scores, k: int) -> tuple[Positions, Scores]:
    """The best `k` positions and their scores; without `positions`, indices of `scores`."""
    if not k:
        return np.empty(0, dtype=np.int64), scores[:0]
    near = np.flatnonzero(scores >= _least(scores, k)) if len(scores) > k else np.arange(len(scores))
    best = near[np.argsort(-scores[near], kind="stable")[:k]]
    return best if positions is None else positions[best], scores[best]


def _least(scores: Scores, k: int) -> Vector:
    """A tight lower bound of the `k`-th largest value of each row of `scores` [..., items].

    The `k`-th largest of the maxima of disjoint parts is such a bound, and needs one pass over the row.
    """
    parts = _PARTS_PER_RESULT * k
    if scores.shape[-1] >= 2 * parts:
        whole = scores.shape[-1] // parts * parts
        scores = scores[..., :whole].reshape(*scores.shape[:-1], -1, parts).max(axis=-2)
    least: Scores = np.partition(scores, -k)[..., -k]
    return least
