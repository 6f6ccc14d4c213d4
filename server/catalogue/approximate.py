"""Approximate search for large catalogues: an inverted file (IVF) index with 8-bit codes.

User vectors cover few directions, and differences between items along other directions do not change scores. So vectors
are projected by the second moment of a sample of users, and only the strongest directions are kept. In these, a few
bytes distinguish two items, and near items have similar scores. Candidates are scored exactly, so that the codes only
decide which items are candidates. The number of lists to probe is measured on the sample when the index is built.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import faiss
import numpy as np
from numpy.typing import NDArray

from swiftrec.server.arrays import Positions, Scores, Vector, Vectors
from swiftrec.server.catalogue.exact import CandidateSet, compare, top_k
from swiftrec.server.catalogue.sparse import NO_BOOSTS, AnyBoosts, Boosts

_log = logging.getLogger(__name__)

_CODE_DIMENSIONS = 96  # a byte each
_ITEM_COVARIANCE_WEIGHT = 0.1  # added to the users' second moment, for users unlike the sample
_KMEANS_ROUNDS, _KMEANS_ITEMS_PER_LIST = 8, 32
_CHUNK_ITEMS = 65_536
_DEPTHS = (10, 100, 1_000)  # ranks at which the number of probes is measured
_RECALL = 0.999  # share of the best items that the probed lists must contain
_MEASURED_USERS = 256
_MIN_EXTRA_CANDIDATES = 100  # beyond `k`, or twice `k` if that is more
_MAX_BOOSTED_CANDIDATES = 2_000  # added because of their boosts, or 4 k if that is more
_FIRST_BOOSTED_FACTOR = 2  # times `k`: candidates with the largest boosts, which are scored first


@dataclass(frozen=True, slots=True)
class _Projection:
    """Projections of items and of users, float32 [dimensions, kept], that preserve their dot product."""

    items: Vectors
    users: Vectors

    @classmethod
    def of(cls, vectors: Vectors, users: Vectors) -> _Projection:
        few = vectors[:: max(1, len(vectors) // _CHUNK_ITEMS)].astype(np.float64)
        few -= few.mean(axis=0)
        spread = few.T @ few / len(few) + 1e-9 * np.eye(few.shape[1])
        unit = users / np.maximum(np.linalg.norm(users, axis=1, keepdims=True), 1e-9)
        moment = unit.T.astype(np.float64) @ unit / len(unit)
        strength, axes = np.linalg.eigh(moment + _ITEM_COVARIANCE_WEIGHT * spread / np.trace(spread))
        scale, axes = np.sqrt(strength[::-1][:_CODE_DIMENSIONS]), axes[:, ::-1][:, :_CODE_DIMENSIONS]
        return cls((axes * scale).astype(np.float32), (axes / scale).astype(np.float32))


class ApproximateIndex:
    """An index made by `build`. Searches can run concurrently.

    Args:
        vectors: float32 [items, dimensions], shared with the catalogue.
        metric: projects items and users.
        lists: the trained and filled index.
        nprobe_by_depth: number of lists to probe for each of `_DEPTHS`.
    """

    def __init__(
        self, vectors: Vectors, metric: _Projection, lists: faiss.IndexIVF, nprobe_by_depth: tuple[int, ...]
    ) -> None:
        self._vectors, self._metric, self._lists, self._nprobe_by_depth = vectors, metric, lists, nprobe_by_depth

    @classmethod
    def build(cls, vectors: Vectors, users: Vectors) -> ApproximateIndex:
        """Index `vectors` for users like `users`, float32 [users, dimensions]; logs its progress."""
        log = _Progress(len(vectors))
        metric = _Projection.of(vectors, users)
        lists = _train(vectors, metric, _list_count(len(vectors)))
        log("lists trained", lists=lists.nlist)
        assignments = _list_assignments(vectors, metric, lists)
        log("items assigned to lists")
        _fill(vectors, metric, lists, assignments)
        log("items encoded")
        sample = np.random.default_rng(0).choice(len(users), min(len(users), _MEASURED_USERS), replace=False)
        nprobe_by_depth = _measure_nprobe(vectors, metric, lists, assignments, users[sample])
        log("probes measured", nprobe_by_depth=nprobe_by_depth)
        return cls(vectors, metric, lists, nprobe_by_depth)

    @property
    def size_bytes(self) -> int:
        """Size without the vectors: codes, positions and centroids."""
        code, position, number = int(self._lists.code_size), 8, 4
        return len(self._vectors) * (code + position) + int(self._lists.nlist) * _CODE_DIMENSIONS * number

    def search(
        self, user: Vector, allowed: CandidateSet, k: int, boosts: AnyBoosts = NO_BOOSTS
    ) -> tuple[Positions, Scores]:
        """The best `k` allowed items that the index finds, and their exact scores; ties go to the earlier item.

        It may find fewer than `k` items even if more are allowed.
        """
        boosts = boosts.listed()
        candidates = self._candidates(user, allowed, k, 0)
        if not len(boosts.positions):
            return top_k(self._vectors, user, candidates, k)
        lowered = boosts.positions[boosts.values < 0]
        if len(lowered) and len(np.setdiff1d(candidates, lowered, assume_unique=True)) < k + _MIN_EXTRA_CANDIDATES // 2:
            candidates = self._candidates(user, allowed, k, 3 * len(lowered))  # all of them may be better
        return self._rank(user, allowed, k, boosts, candidates)

    def _rank(
        self, user: Vector, allowed: CandidateSet, k: int, boosts: Boosts, candidates: Positions
    ) -> tuple[Positions, Scores]:
        """The best `k` of the candidates and of the items with boosts.

        Few items have a larger product than the first candidate. So another item can only be among the best if its
        boost is at least the distance of the first candidate's product to the `k`-th best score.
        """
        products = compare(self._vectors, user, candidates)
        kept = boosts.where(boosts.values > 0)
        kept = kept.where(allowed.contains(kept.positions))
        scored = _Scored(candidates, products + boosts.at(candidates))
        scored = scored.joined(kept.largest(_FIRST_BOOSTED_FACTOR * k), self._vectors, user, boosts)
        first = products.max() if len(products) else np.float32(np.inf)
        more = kept.where(kept.values >= scored.bar(k) - first).largest(max(_MAX_BOOSTED_CANDIDATES, 4 * k))
        return scored.joined(more, self._vectors, user, boosts).best(k)

    def _candidates(self, user: Vector, allowed: CandidateSet, k: int, more: int) -> Positions:
        """Allowed items among which the best `k` + `more` by the vectors are, ascending."""
        selector = None if allowed.bits is None else faiss.IDSelectorBitmap(allowed.bits)
        count = k + max(2 * k, _MIN_EXTRA_CANDIDATES) + len(allowed.denied) + more
        # All denied items may be better.
        depth = (k + more + allowed.denied_count) * len(self._vectors) / max(1, allowed.count)
        probes = min(int(self._lists.nlist), nprobe_for(depth, self._nprobe_by_depth))
        query = (user @ self._metric.users)[np.newaxis]
        _, neighbours = self._lists.search(query, count, params=faiss.SearchParametersIVF(nprobe=probes, sel=selector))
        candidates = np.sort(neighbours[0][neighbours[0] >= 0])
        return candidates[allowed.contains(candidates)] if len(allowed.denied) else candidates


def nprobe_for(depth: float, nprobe_by_depth: Sequence[int]) -> int:
    """Number of lists to probe for the best `depth` of all items; a power law between the measured depths.

    `nprobe_by_depth`: number of lists to probe for each of `_DEPTHS`, ascending.
    """
    measured = [*pairwise(zip(_DEPTHS, nprobe_by_depth, strict=True))]
    (near, few), (far, many) = next((part for part in measured if depth <= part[1][0]), measured[-1])
    share = max(0.0, math.log(depth / near) / math.log(far / near))
    return math.ceil(few * math.pow(many / few, share))


@dataclass(frozen=True, slots=True)
class _Scored:
    """Distinct items and their scores."""

    positions: Positions
    scores: Scores

    def joined(self, more: Positions, vectors: Vectors, user: Vector, boosts: Boosts) -> _Scored:
        """Add those of `more` that are not included yet."""
        new = np.setdiff1d(more, self.positions, assume_unique=True)
        scores = compare(vectors, user, new) + boosts.at(new)
        return _Scored(np.concatenate([self.positions, new]), np.concatenate([self.scores, scores]))

    def bar(self, k: int) -> np.float32:
        """The `k`-th best score; minus infinity if there are fewer."""
        return np.partition(self.scores, -k)[-k] if 0 < k <= len(self.scores) else np.float32(-np.inf)

    def best(self, k: int) -> tuple[Positions, Scores]:
        """The best `k`; ties go to the earlier item."""
        order = np.lexsort((self.positions, -self.scores))[:k]
        return self.positions[order], self.scores[order]


class _Progress:
    """Logs the progress and its duration."""

    def __init__(self, items: int) -> None:
        self._items, self._started = items, time.monotonic()

    def __call__(self, what: str, **more: object) -> None:
        fields = {"items": self._items, "seconds": round(time.monotonic() - self._started, 1), **more}
        _log.info("index: %s", what, extra={"fields": fields})


def _list_count(items: int) -> int:
    """About four times the square root of the number of items, as a power of two."""
    return int(2 ** round(np.log2(4 * np.sqrt(max(1, items)))))


def _train(vectors: Vectors, metric: _Projection, count: int) -> faiss.IndexIVF:
    """Train empty lists. Uses one thread, so that the same vectors give the same lists."""
    faiss.omp_set_num_threads(1)
    random = np.random.default_rng(0)
    sample = vectors[
        np.sort(random.choice(len(vectors), min(len(vectors), count * _KMEANS_ITEMS_PER_LIST), replace=False))
    ]
    projected = sample @ metric.items
    count, dimensions = min(count, len(projected)), projected.shape[1]
    means = faiss.Kmeans(
        dimensions,
        count,
        niter=_KMEANS_ROUNDS,
        seed=1,
        min_points_per_centroid=1,
        max_points_per_centroid=_KMEANS_ITEMS_PER_LIST,
    )
    means.train(projected)
    centroids = faiss.IndexFlatIP(dimensions)
    centroids.add(means.centroids)
    byte = faiss.ScalarQuantizer.QT_8bit
    lists = faiss.IndexIVFScalarQuantizer(centroids, dimensions, count, byte, faiss.METRIC_INNER_PRODUCT, True)
    lists.train(projected)
    lists.referenced_objects = [centroids]
    return lists


def _list_assignments(vectors: Vectors, metric: _Projection, lists: faiss.IndexIVF) -> NDArray[np.int64]:
    """The nearest list of each item, [items]."""
    near = faiss.IndexFlatL2(lists.d)
    near.add(lists.quantizer.reconstruct_n(0, lists.nlist))

    def nearest(part: Vectors) -> NDArray[np.int64]:
        faiss.omp_set_num_threads(1)
        neighbours: NDArray[np.int64] = near.search(part @ metric.items, 1)[1][:, 0]
        return neighbours

    return np.concatenate(_at_once(nearest, vectors))


def _fill(vectors: Vectors, metric: _Projection, lists: faiss.IndexIVF, assignments: NDArray[np.int64]) -> None:
    for start in range(0, len(vectors), _CHUNK_ITEMS):
        part = vectors[start : start + _CHUNK_ITEMS] @ metric.items
        positions = np.arange(start, start + len(part))
        own = np.ascontiguousarray(assignments[start : start + len(part)])
        lists.add_core(len(part), *map(faiss.swig_ptr, (part, positions, own)))


def _measure_nprobe(
    vectors: Vectors, metric: _Projection, lists: faiss.IndexIVF, assignments: NDArray[np.int64], users: Vectors
) -> tuple[int, ...]:
    """How many lists of a user, best first, hold `_RECALL` of the best items, at each depth."""
    scores = (users @ metric.users) @ lists.quantizer.reconstruct_n(0, lists.nlist).T
    order = np.argsort(np.argsort(-scores, axis=1, kind="stable"), axis=1, kind="stable")
    far = min(_DEPTHS[-1], len(vectors))

    def best(user: Vector) -> NDArray[np.int64]:
        top = np.argpartition(all_scores := -(vectors @ user), far - 1)[:far]
        return top[np.argsort(all_scores[top], kind="stable")]

    ranks = np.array([places[assignments[best(user)]] for user, places in zip(users, order, strict=True)])
    nprobe_by_depth = [1 + int(np.quantile(ranks[:, :depth], _RECALL, method="inverted_cdf")) for depth in _DEPTHS]
    return tuple(np.maximum.accumulate(nprobe_by_depth).tolist())


def _at_once(work: Callable[[NDArray[np.float32]], NDArray[np.int64]], rows: Vectors) -> list[NDArray[np.int64]]:
    """Apply `work` to parts of the rows on all cores; returns the results in order."""
    parts = [rows[start : start + _CHUNK_ITEMS] for start in range(0, len(rows), _CHUNK_ITEMS)]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix="index") as pool:
        return list(pool.map(work, parts))
