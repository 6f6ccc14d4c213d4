"""The items of a bundle and their vectors: resolves filters and finds the best items."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from swiftrec.server.arrays import Positions, Scores, Vector, Vectors
from swiftrec.server.catalogue import exact
from swiftrec.server.catalogue.blend import item_vectors
from swiftrec.server.catalogue.exact import CandidateSet, all_but
from swiftrec.server.catalogue.filters import AttributeIndex
from swiftrec.server.catalogue.items import ITEMS, ItemTable
from swiftrec.server.catalogue.sparse import NO_BOOSTS, SWITCH_OVER, AnyBoosts
from swiftrec.server.domain import Filter, Item
from swiftrec.server.errors import BundleError

if TYPE_CHECKING:
    from swiftrec.server.catalogue.approximate import ApproximateIndex

__all__ = ["ITEMS", "VECTORS", "Catalogue", "IndexMode", "ScoredItems"]

VECTORS, SENTENCES = "vectors.npy", "sentences.npy"
EXACT_BELOW = 10_000  # candidates: up to this number an exact search is as fast as the index

IndexMode = Literal["auto", "exact", "approximate"]
ScoredItems: TypeAlias = "list[tuple[Item, float]]"  # best first, with scores
MIN_BATCHED_USERS = 4  # below this, searching for users one by one is as fast
_MAX_BATCHED_K = 100  # above this, searching for users one by one is as fast
_CHUNK_ROWS = 65_536


class Catalogue:
    """The items and their vectors, in the same order.

    Args:
        items: of the catalogue.
        vectors: the ranker's, float32 [items, d].
        sentences: sentence vectors of the items' texts, float32 [items, s]; then a search compares whole vectors, as
            `server.catalogue.blend` lays them out, else those of the ranker alone.
    """

    def __init__(self, items: Sequence[Item], vectors: Vectors, sentences: Vectors | None = None) -> None:
        self.items, self._count, self.dimensions = items, len(items), vectors.shape[1]
        self._item: Callable[[int], Item] = items.at if isinstance(items, ItemTable) else items.__getitem__
        self._position: dict[str, int] = {}
        popularity = np.zeros(self._count, dtype=np.float32)

        def attributes() -> Iterable[dict[str, list[str]]]:
            for n, item in enumerate(items):
                self._position[item.id] = n
                popularity[n] = item.popularity
                yield item.attributes

        self._attributes = AttributeIndex(attributes())
        compared = vectors if sentences is None else item_vectors(vectors, sentences, popularity)
        self._vectors = np.ascontiguousarray(compared)
        width = 0 if sentences is None else sentences.shape[1]
        self.sentences = self._vectors[:, self.dimensions : self.dimensions + width]
        self._popularity = popularity
        self._by_popularity = np.argsort(-popularity, kind="stable").astype(np.int32)  # positions, most popular first
        self._popularity_rank = np.empty_like(self._by_popularity)  # of the item at each position
        self._popularity_rank[self._by_popularity] = np.arange(self._count, dtype=np.int32)
        self._shares = np.cumsum(popularity + 1.0, dtype=np.float64)
        self._longest = _longest(self._vectors) if self._count < SWITCH_OVER else 0.0
        self._index: ApproximateIndex | None = None
        self._exact_below = EXACT_BELOW

    @classmethod
    def load(cls, folder: Path, sentence_dimensions: int) -> Catalogue:
        """Read `items.jsonl`, `vectors.npy` and, with `sentence_dimensions`, `sentences.npy`.

        Raises:
            BundleError: a file is invalid, or the files do not match.
        """
        items = ItemTable.load(folder)
        vectors = _load_vectors(folder / VECTORS, items)
        sentences = np.empty((len(vectors), 0), np.float32)
        if sentence_dimensions:
            sentences = _load_vectors(folder / SENTENCES, items)
        try:
            return cls(items, vectors, sentences)
        except (ValueError, TypeError, AttributeError) as error:
            raise BundleError(f"{folder / ITEMS}: not a table of items ({error}): export it again") from None

    @property
    def width(self) -> int:
        """Length of the vectors that a search compares."""
        return int(self._vectors.shape[1])

    def position(self, item_id: str) -> int | None:
        """The position of an item, or None if it is not in the catalogue."""
        return self._position.get(item_id)

    def positions(self, item_ids: Iterable[str]) -> Positions:
        """The positions of items that are in the catalogue."""
        return np.array([self._position[item_id] for item_id in item_ids], dtype=np.int64)

    def vectors_at(self, positions: Positions) -> NDArray[np.float32]:
        """The vectors of the items at `positions`, [n, width]."""
        return self._vectors[positions]

    def title(self, position: int) -> str:
        """The title of the item at a position."""
        return self._item(position).title

    def event_vector(self, position: int) -> Vector:
        """The ranker's input for an item in a history, [dimensions]."""
        return self._vectors[position, : self.dimensions]

    def index(
        self, mode: IndexMode, sample: Callable[[], Vectors], *, exact_below: int = EXACT_BELOW
    ) -> ApproximateIndex | None:
        """Build the approximate index: always, never, or (auto) if the catalogue is large enough for it to be faster.

        Args:
            mode: when to build it.
            sample: returns user vectors [users, dimensions] to train it on.
            exact_below: number of candidates up to which a search is exact despite the index.

        Raises:
            BundleError: the sample has numbers that are not finite.
        """
        if mode == "exact" or not self._count or (mode == "auto" and self._count < SWITCH_OVER):
            return None
        # Imported lazily: it takes 0.3 s and 40 MB, which most bundles do not need; its loader logs a lot.
        logging.getLogger("faiss.loader").setLevel(logging.WARNING)
        from swiftrec.server.catalogue.approximate import ApproximateIndex

        users = sample()
        if not np.isfinite(users).all():
            raise BundleError(
                "a model of the bundle returns NaN or infinity, so no index can be built: export it again "
                "(swiftrec probe names the file of the model)"
            )
        self._index, self._exact_below = ApproximateIndex.build(self._vectors, users), exact_below
        return self._index

    def sample(self, number: int, random: np.random.Generator) -> Positions:
        """Random items, int64 [number]: alternately uniform and by popularity."""
        uniform = random.integers(self._count, size=number)
        popular = np.searchsorted(self._shares, self._shares[-1] * random.random(number), side="right")
        return np.where(np.arange(number) % 2, popular, uniform)

    def resolve_filter(self, conditions: Filter, seen: Iterable[int]) -> CandidateSet:
        """The items that meet the conditions, without the positions in `seen`.

        Raises:
            InvalidRequest: no item has an attribute of the conditions.
        """
        if conditions.is_empty:
            return all_but(self._count, seen)
        denied = [*self._known(conditions.denied), *seen]
        return self._attributes.allow(conditions, self._known(conditions.allowed), denied)

    def check_filter(self, conditions: Filter) -> None:
        """Make only the checks of `resolve_filter`.

        Raises:
            InvalidRequest: no item has an attribute of the conditions.
        """
        self._attributes.check(conditions)

    def filter_work(self, conditions: Filter) -> float:
        """Predict the cost of `resolve_filter` for these conditions, in 64-bit words read sequentially.

        It is 0 for cached conditions on attributes, and without conditions. Removing the items that the user has seen
        is not included; it costs about ten words for each 64 items of the catalogue.
        """
        return self._attributes.work(conditions)

    def unknown_values(self, conditions: Filter) -> list[str]:
        """The values and ids of a filter that no item of the catalogue has, whether or not they affect the ranking.

        Returns:
            Attribute values as "NAME=VALUE" in the order of the conditions, then ids of `allowed` as
            "allowed_item_ids=ID", sorted.
        """
        ids = sorted(item_id for item_id in conditions.allowed if item_id not in self._position)
        return [*self._attributes.unknown_values(conditions), *(f"allowed_item_ids={item_id}" for item_id in ids)]

    def search(self, user: Vector, allowed: CandidateSet, k: int, boosts: AnyBoosts = NO_BOOSTS) -> ScoredItems:
        """The `k` items with the largest dot product with `user` [width] plus boost; ties go to the earlier item."""
        positions, scores = self._search(user, allowed, k, boosts)
        return self._named(positions, scores)

    def search_many(
        self, users: Sequence[Vector], allowed: Sequence[CandidateSet], k: Sequence[int], boosts: Sequence[AnyBoosts]
    ) -> list[ScoredItems]:
        """The results of `search` for several users; faster for users without filters if the search is exact."""
        results = self._search_batched(users, allowed, k, boosts)
        for n, request in enumerate(zip(users, allowed, k, boosts, strict=True)):
            if n not in results:
                results[n] = self._search(*request)
        return [self._named(*results[n]) for n in range(len(users))]

    def popular(self, allowed: CandidateSet, k: int) -> ScoredItems:
        """The `k` items with the most interactions; ties go to the earlier item.

        For most filters the most popular items suffice; for others each candidate is read once.
        """
        k = min(k, allowed.count)
        first = self._by_popularity[: 4 * k + len(allowed.denied)].astype(np.int64)
        results = first[allowed.contains(first)][:k]
        if len(results) < k:
            ranks = self._popularity_rank[allowed.positions()]
            results = self._by_popularity[np.sort(np.partition(ranks, k - 1)[:k])].astype(np.int64)
        return self._named(results, self._popularity[results])

    def _search(self, user: Vector, allowed: CandidateSet, k: int, boosts: AnyBoosts) -> tuple[Positions, Scores]:
        if self._index and allowed.count > self._exact_below:
            positions, scores = self._index.search(user, allowed, k, boosts)
            if len(positions) == min(k, allowed.count):
                return positions, scores
        return exact.search(self._vectors, user, allowed, k, boosts)

    def _search_batched(
        self, users: Sequence[Vector], allowed: Sequence[CandidateSet], k: Sequence[int], boosts: Sequence[AnyBoosts]
    ) -> dict[int, tuple[Positions, Scores]]:
        """Positions and scores of the users for whom a batched search is faster, by their index."""
        if len(users) < MIN_BATCHED_USERS or self._index or self._count >= SWITCH_OVER:
            return {}
        max_k = min(_MAX_BATCHED_K, self._count - 1)
        places = [n for n, candidates in enumerate(allowed) if candidates.bits is None and 1 <= k[n] <= max_k]
        if len(places) < MIN_BATCHED_USERS:
            return {}
        max_requested = max(k[n] for n in places)
        chosen, denied = np.array([users[n] for n in places]), [allowed[n].denied for n in places]
        added = [boosts[n] for n in places]
        results = exact.search_many(self._vectors, self._longest, chosen, denied, max_requested, added)
        return {n: (best[0][: k[n]], best[1][: k[n]]) for n, best in zip(places, results, strict=True) if best}

    def _known(self, ids: Iterable[str]) -> list[int]:
        return [position for item_id in ids if (position := self._position.get(item_id)) is not None]

    def _named(self, positions: Positions, scores: NDArray[np.float32]) -> ScoredItems:
        return list(zip(map(self._item, positions.tolist()), scores.tolist(), strict=True))


def _load_vectors(path: Path, items: ItemTable) -> NDArray[np.float32]:
    """Load a vector for each item.

    Raises:
        BundleError: the file is invalid or does not match the items.
    """
    try:
        vectors: Vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: not a file of vectors ({error}): export it again") from None
    if vectors.dtype != np.float32 or vectors.ndim != 2 or len(vectors) != len(items):
        _require_table(path.parent / ITEMS, items)
        raise BundleError(f"{path}: {vectors.dtype}{list(vectors.shape)} for {len(items)} items: export it again")
    if not all(np.isfinite(part).all() for part in _parts(vectors)):
        raise BundleError(f"{path}: has numbers that are not finite: export it again")
    return vectors


def _require_table(path: Path, items: ItemTable) -> None:
    """Decode all rows first, so that a malformed file is reported as such, not as a wrong number of items.

    Raises:
        BundleError: the file is malformed.
    """
    try:
        for _ in items:
            pass
    except (ValueError, TypeError, AttributeError) as error:
        raise BundleError(f"{path}: not a table of items ({error}): export it again") from None


def _longest(vectors: Vectors) -> float:
    """Length of the longest row; in float64, so that squares do not underflow or overflow."""
    parts = (np.linalg.norm(part.astype(np.float64), axis=1) for part in _parts(vectors))
    return max((float(part.max()) for part in parts), default=0.0)


def _parts(vectors: Vectors) -> Iterable[NDArray[np.float32]]:
    """Chunks of rows, to limit memory."""
    return (vectors[start : start + _CHUNK_ROWS] for start in range(0, len(vectors), _CHUNK_ROWS))
