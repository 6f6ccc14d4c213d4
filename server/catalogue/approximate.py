"""Approximate search for large catalogues: lists of near items, few of which are read, in eight bits a dimension.

Users do not look everywhere. What the ranker answers fills few directions, and a difference between two items along a
direction that no user has changes no score. So items are compared in the metric of a sample of users (the square root
of its second moment), of which the strongest directions are kept: there a few bytes tell items apart, and lists of near
items hold what scores alike. Every candidate is scored exactly, so that the codes decide only who is a candidate. How
many lists are read is measured on the sample when the index is made.
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

from swiftrec.server.catalogue.exact import Allowed, Vectors, compare, rank
from swiftrec.server.catalogue.sparse import NO_BOOSTS, AnyBoosts, Boosts, Positions, Vector

_log = logging.getLogger(__name__)

_KEPT = 96  # dimensions, a byte each
_BLEND = 0.1  # of the items' own covariance beside the users', for users unlike the sample
_ROUNDS, _EACH = 8, 32  # of k-means, and the items for each list that it is shown
_CHUNK = 65_536  # items at once
_DEPTHS = (10, 100, 1_000)  # ranks at which the reach of the lists is measured
_REACH = 0.999  # share of the best items that the lists which are read must hold
_PROBES = 256  # users that it is measured on
_SPARE = 100  # candidates beyond those that are wanted: at least these, and twice as many as are wanted
_BOOSTED = 2_000  # candidates at most, or four times those wanted, for what is added to their scores
_FIRST = 2  # candidates for each wanted item that are scored first, for what is added to their scores


@dataclass(frozen=True, slots=True)
class _Metric:
    """float32 [dimensions, kept]: `items` @ is where items are compared, `users` @ keeps the dot product with them."""

    items: NDArray[np.float32]
    users: NDArray[np.float32]

    @classmethod
    def of(cls, vectors: Vectors, users: Vectors) -> _Metric:
        few = vectors[:: max(1, len(vectors) // _CHUNK)].astype(np.float64)
        few -= few.mean(axis=0)
        spread = few.T @ few / len(few) + 1e-9 * np.eye(few.shape[1])
        unit = users / np.maximum(np.linalg.norm(users, axis=1, keepdims=True), 1e-9)
        moment = unit.T.astype(np.float64) @ unit / len(unit)
        strength, axes = np.linalg.eigh(moment + _BLEND * spread / np.trace(spread))
        scale, axes = np.sqrt(strength[::-1][:_KEPT]), axes[:, ::-1][:, :_KEPT]
        return cls((axes * scale).astype(np.float32), (axes / scale).astype(np.float32))


class ApproximateIndex:
    """Made by `build`; searches may run at the same time.

    Args:
        vectors: float32 [items, dimensions], which it shares with the catalogue.
        metric: where items are compared.
        lists: the trained and filled index.
        reach: how many lists hold what is wanted at each of `_DEPTHS`.
    """

    def __init__(self, vectors: Vectors, metric: _Metric, lists: faiss.IndexIVF, reach: tuple[int, ...]) -> None:
        self._vectors, self._metric, self._lists, self._reach = vectors, metric, lists, reach

    @classmethod
    def build(cls, vectors: Vectors, users: Vectors) -> ApproximateIndex:
        """Index `vectors` for users like `users`, float32 [users, dimensions]; the log tells how far it is."""
        tell = _Progress(len(vectors))
        metric = _Metric.of(vectors, users)
        lists = _train(vectors, metric, _list_count(len(vectors)))
        tell("lists are trained", lists=lists.nlist)
        homes = _homes(vectors, metric, lists)
        tell("items have their lists")
        _fill(vectors, metric, lists, homes)
        tell("items are coded")
        some = np.random.default_rng(0).choice(len(users), min(len(users), _PROBES), replace=False)
        reach = _reach(vectors, metric, lists, homes, users[some])
        tell("its reach is measured", reach=reach)
        return cls(vectors, metric, lists, reach)

    @property
    def size_bytes(self) -> int:
        """What it takes beside the vectors: codes, positions and centroids."""
        code, position, number = int(self._lists.code_size), 8, 4
        return len(self._vectors) * (code + position) + int(self._lists.nlist) * _KEPT * number

    def search(self, user: Vector, allowed: Allowed, k: int, boosts: AnyBoosts = NO_BOOSTS) -> tuple[Positions, Vector]:
        """The best `k` of the allowed items that it finds, and their exact scores; ties go to the earlier item.

        There may be fewer than `k` though more are allowed.
        """
        boosts = boosts.listed()
        candidates = self._candidates(user, allowed, k, 0)
        if not len(boosts.positions):
            return rank(self._vectors, user, candidates, k)
        lowered = boosts.positions[boosts.values < 0]
        if len(lowered) and len(np.setdiff1d(candidates, lowered, assume_unique=True)) < k + _SPARE // 2:
            candidates = self._candidates(user, allowed, k, 3 * len(lowered))  # those may all lie above
        return self._rank(user, allowed, k, boosts, candidates)

    def _rank(
        self, user: Vector, allowed: Allowed, k: int, boosts: Boosts, candidates: Positions
    ) -> tuple[Positions, Vector]:
        """The best `k` of the candidates by the vectors and of the items that something is added to.

        By the vectors hardly an item scores more than the first candidate. So of the others only those can be among the
        best to which as much is added as that lies below the `k` th best.
        """
        products = compare(self._vectors, user, candidates)
        kept = boosts.where(boosts.values > 0)
        kept = kept.where(allowed.holds(kept.positions))
        scored = _Scored(candidates, products + boosts.at(candidates))
        scored = scored.joined(kept.largest(_FIRST * k), self._vectors, user, boosts)
        first = products.max() if len(products) else np.float32(np.inf)
        more = kept.where(kept.values >= scored.bar(k) - first).largest(max(_BOOSTED, 4 * k))
        return scored.joined(more, self._vectors, user, boosts).best(k)

    def _candidates(self, user: Vector, allowed: Allowed, k: int, more: int) -> Positions:
        """Allowed items among which the best `k` + `more` by the vectors are, ascending."""
        selector = None if allowed.bits is None else faiss.IDSelectorBitmap(allowed.bits)
        wanted = k + max(2 * k, _SPARE) + len(allowed.denied) + more
        # The denied may all lie above.
        depth = (k + more + allowed.missing) * len(self._vectors) / max(1, allowed.count)
        probes = min(int(self._lists.nlist), lists_for(depth, self._reach))
        query = (user @ self._metric.users)[np.newaxis]
        _, found = self._lists.search(query, wanted, params=faiss.SearchParametersIVF(nprobe=probes, sel=selector))
        candidates = np.sort(found[0][found[0] >= 0])
        return candidates[allowed.holds(candidates)] if len(allowed.denied) else candidates


def lists_for(depth: float, reach: Sequence[int]) -> int:
    """Lists to read for what lies `depth` deep in the ranking of all items; between the measured depths a power.

    `reach`: lists that hold what is wanted at each of `_DEPTHS`, none fewer than the one before.
    """
    measured = [*pairwise(zip(_DEPTHS, reach, strict=True))]
    (near, few), (far, many) = next((part for part in measured if depth <= part[1][0]), measured[-1])
    share = max(0.0, math.log(depth / near) / math.log(far / near))
    return math.ceil(few * math.pow(many / few, share))


@dataclass(frozen=True, slots=True)
class _Scored:
    """Items, each once, and their scores."""

    positions: Positions
    scores: Vector

    def joined(self, more: Positions, vectors: Vectors, user: Vector, boosts: Boosts) -> _Scored:
        """With those of `more` that are not there yet."""
        new = np.setdiff1d(more, self.positions, assume_unique=True)
        scores = compare(vectors, user, new) + boosts.at(new)
        return _Scored(np.concatenate([self.positions, new]), np.concatenate([self.scores, scores]))

    def bar(self, k: int) -> np.float32:
        """The `k` th best score; less than any where there are fewer."""
        return np.partition(self.scores, -k)[-k] if 0 < k <= len(self.scores) else np.float32(-np.inf)

    def best(self, k: int) -> tuple[Positions, Vector]:
        """The best `k`; ties go to the earlier item."""
        order = np.lexsort((self.positions, -self.scores))[:k]
        return self.positions[order], self.scores[order]


class _Progress:
    """Tells the log what is done, and after how long."""

    def __init__(self, items: int) -> None:
        self._items, self._started = items, time.monotonic()

    def __call__(self, what: str, **more: object) -> None:
        fields = {"items": self._items, "seconds": round(time.monotonic() - self._started, 1), **more}
        _log.info("index: %s", what, extra={"fields": fields})


def _list_count(items: int) -> int:
    """About four times the root, a power of two."""
    return int(2 ** round(np.log2(4 * np.sqrt(max(1, items)))))


def _train(vectors: Vectors, metric: _Metric, count: int) -> faiss.IndexIVF:
    """Lists without items. One thread: the same vectors give the same lists."""
    faiss.omp_set_num_threads(1)
    random = np.random.default_rng(0)
    shown = vectors[np.sort(random.choice(len(vectors), min(len(vectors), count * _EACH), replace=False))]
    shown = shown @ metric.items
    count, kept = min(count, len(shown)), shown.shape[1]
    means = faiss.Kmeans(kept, count, niter=_ROUNDS, seed=1, min_points_per_centroid=1, max_points_per_centroid=_EACH)
    means.train(shown)
    centroids = faiss.IndexFlatIP(kept)
    centroids.add(means.centroids)
    byte = faiss.ScalarQuantizer.QT_8bit
    lists = faiss.IndexIVFScalarQuantizer(centroids, kept, count, byte, faiss.METRIC_INNER_PRODUCT, True)
    lists.train(shown)
    lists.referenced_objects = [centroids]
    return lists


def _homes(vectors: Vectors, metric: _Metric, lists: faiss.IndexIVF) -> NDArray[np.int64]:
    """The nearest list of each item, [items]."""
    near = faiss.IndexFlatL2(lists.d)
    near.add(lists.quantizer.reconstruct_n(0, lists.nlist))

    def nearest(part: NDArray[np.float32]) -> NDArray[np.int64]:
        faiss.omp_set_num_threads(1)
        found: NDArray[np.int64] = near.search(part @ metric.items, 1)[1][:, 0]
        return found

    return np.concatenate(_at_once(nearest, vectors))


def _fill(vectors: Vectors, metric: _Metric, lists: faiss.IndexIVF, homes: NDArray[np.int64]) -> None:
    for start in range(0, len(vectors), _CHUNK):
        part = vectors[start : start + _CHUNK] @ metric.items
        positions = np.arange(start, start + len(part))
        own = np.ascontiguousarray(homes[start : start + len(part)])
        lists.add_core(len(part), *map(faiss.swig_ptr, (part, positions, own)))


def _reach(
    vectors: Vectors, metric: _Metric, lists: faiss.IndexIVF, homes: NDArray[np.int64], users: Vectors
) -> tuple[int, ...]:
    """How many lists of a user, best first, hold `_REACH` of the best items, at each depth."""
    scores = (users @ metric.users) @ lists.quantizer.reconstruct_n(0, lists.nlist).T
    order = np.argsort(np.argsort(-scores, axis=1, kind="stable"), axis=1, kind="stable")
    far = min(_DEPTHS[-1], len(vectors))

    def best(user: Vector) -> NDArray[np.int64]:
        top = np.argpartition(all_scores := -(vectors @ user), far - 1)[:far]
        return top[np.argsort(all_scores[top], kind="stable")]

    ranks = np.array([places[homes[best(user)]] for user, places in zip(users, order, strict=True)])
    reach = [1 + int(np.quantile(ranks[:, :depth], _REACH, method="inverted_cdf")) for depth in _DEPTHS]
    return tuple(np.maximum.accumulate(reach).tolist())


def _at_once(work: Callable[[NDArray[np.float32]], NDArray[np.int64]], rows: Vectors) -> list[NDArray[np.int64]]:
    """`work` on parts of the rows, one on each core, in order."""
    parts = [rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK)]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix="index") as pool:
        return list(pool.map(work, parts))
