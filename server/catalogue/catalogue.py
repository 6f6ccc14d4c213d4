"""Items and their vectors: who is allowed, and which of those fit best."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from swiftrec.server.catalogue import exact
from swiftrec.server.catalogue.blend import item_vectors
from swiftrec.server.catalogue.exact import Allowed, all_but
from swiftrec.server.catalogue.filters import AttributeIndex, AttributeValues, Filter
from swiftrec.server.catalogue.items import ITEMS, Item, ItemTable
from swiftrec.server.catalogue.sparse import NO_BOOSTS, SWITCH_OVER, AnyBoosts, Positions, Vector
from swiftrec.server.errors import BundleError

if TYPE_CHECKING:
    from swiftrec.server.catalogue.approximate import ApproximateIndex

__all__ = ["ITEMS", "VECTORS", "AttributeValues", "Catalogue", "Filter", "IndexMode", "Item", "Ranked"]

VECTORS, SENTENCES = "vectors.npy", "sentences.npy"
NARROW = 10_000  # allowed items up to which comparing each is as fast

IndexMode = Literal["auto", "exact", "approximate"]
Ranked: TypeAlias = "list[tuple[Item, float]]"  # best first, with scores
TOGETHER = 4  # users from which on it is worth it to search for them together
_FEW = 100  # wanted items up to which it is
_CHUNK = 65_536  # rows that are checked at once


class Catalogue:
    """Items and their vectors, in the same order.

    Args:
        items: of the catalogue.
        vectors: the ranker's, float32 [items, d].
        sentences: sentence vectors of the items' texts, float32 [items, s]; then a search compares whole vectors, as
            `server.catalogue.blend` lays them out, else those of the ranker alone.
    """

    def __init__(
        self, items: Sequence[Item], vectors: NDArray[np.float32], sentences: NDArray[np.float32] | None = None
    ) -> None:
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
        whole = vectors if sentences is None else item_vectors(vectors, sentences, popularity)
        self._vectors = np.ascontiguousarray(whole)
        width = 0 if sentences is None else sentences.shape[1]
        self.sentences = self._vectors[:, self.dimensions : self.dimensions + width]
        self._popularity = popularity
        self._by_popularity = np.argsort(-popularity, kind="stable").astype(np.int32)  # positions, most popular first
        self._popularity_rank = np.empty_like(self._by_popularity)  # of the item at each position
        self._popularity_rank[self._by_popularity] = np.arange(self._count, dtype=np.int32)
        self._shares = np.cumsum(popularity + 1.0, dtype=np.float64)
        self._longest = _longest(self._vectors) if self._count < SWITCH_OVER else 0.0
        self._index: ApproximateIndex | None = None
        self._narrow = NARROW

    @classmethod
    def load(cls, folder: Path, sentence_dimensions: int) -> Catalogue:
        """Read `items.jsonl`, `vectors.npy` and, with `sentence_dimensions`, `sentences.npy`.

        Raises:
            BundleError: they do not belong together.
        """
        items = ItemTable.load(folder)
        vectors = _load_vectors(folder / VECTORS, items)
        sentences = np.empty((len(vectors), 0), np.float32)
        if sentence_dimensions:
            sentences = _load_vectors(folder / SENTENCES, items)
        try:
            return cls(items, vectors, sentences)
        except (ValueError, TypeError, AttributeError) as error:
            raise BundleError(f"{folder / ITEMS}: no table of items ({error}): export it again") from None

    @property
    def width(self) -> int:
        """Length of what a search compares."""
        return int(self._vectors.shape[1])

    def position(self, item_id: str) -> int | None:
        """Where the item stands, or None if there is no such item."""
        return self._position.get(item_id)

    def positions(self, item_ids: Iterable[str]) -> Positions:
        """Where these items of the catalogue stand, in their order."""
        return np.array([self._position[item_id] for item_id in item_ids], dtype=np.int64)

    def vectors_at(self, positions: Positions) -> NDArray[np.float32]:
        """What a search compares of the items at `positions`, [n, width]."""
        return self._vectors[positions]

    def title(self, position: int) -> str:
        """Of the item at a position."""
        return self._item(position).title

    def event_vector(self, position: int) -> Vector:
        """What the ranker reads of an item in a history, [dimensions]."""
        return self._vectors[position, : self.dimensions]

    def index(
        self, mode: IndexMode, sample: Callable[[], NDArray[np.float32]], *, narrow: int = NARROW
    ) -> ApproximateIndex | None:
        """Make the approximate index: always, never, or (auto) where there are so many items that it is faster.

        Args:
            mode: which.
            sample: gives vectors of users [users, dimensions] that it is made for.
            narrow: allowed items up to which a search stays exact all the same.

        Raises:
            BundleError: the sample has numbers that are not finite.
        """
        if mode == "exact" or not self._count or (mode == "auto" and self._count < SWITCH_OVER):
            return None
        # Only here: it takes 0.3 s and 40 MB that most bundles can do without, and tells where it looked for itself.
        logging.getLogger("faiss.loader").setLevel(logging.WARNING)
        from swiftrec.server.catalogue.approximate import ApproximateIndex

        users = sample()
        if not np.isfinite(users).all():
            raise BundleError(
                "a model of the bundle answers NaN or infinity, so that no index can be made: export it again "
                "(swiftrec probe names the model's file)"
            )
        self._index, self._narrow = ApproximateIndex.build(self._vectors, users), narrow
        return self._index

    def draw(self, number: int, random: np.random.Generator) -> Positions:
        """Random items, int64 [number], every other one as likely as it is popular."""
        uniform = random.integers(self._count, size=number)
        popular = np.searchsorted(self._shares, self._shares[-1] * random.random(number), side="right")
        return np.where(np.arange(number) % 2, popular, uniform)

    def mask(self, conditions: Filter, seen: Iterable[int]) -> Allowed:
        """Which items may be answered; `seen` are positions that may not.

        Raises:
            InvalidRequest: an attribute is named that no item has.
        """
        if conditions.is_empty:
            return all_but(self._count, seen)
        denied = [*self._known(conditions.denied), *seen]
        return self._attributes.allow(conditions, self._known(conditions.allowed), denied)

    def check_filter(self, conditions: Filter) -> None:
        """Check what `mask` refuses, without its work.

        Raises:
            InvalidRequest: an attribute is named that no item has.
        """
        self._attributes.check(conditions)

    def filter_work(self, conditions: Filter) -> float:
        """Predict what `mask` costs for these conditions, in 64-bit words that are read one after the other.

        It is 0 for conditions on attributes whose bits are cached, and if there are none. Taking out the items that the
        user has seen is not in it: about ten words for each 64 items of the catalogue.
        """
        return self._attributes.work(conditions)

    def unknown_values(self, conditions: Filter) -> list[str]:
        """What a filter names that no item of the catalogue has, with or without effect on the ranking.

        Returns:
            Attribute values as "NAME=VALUE" in the order of the conditions, then ids of `allowed` as
            "allowed_item_ids=ID", sorted.
        """
        ids = sorted(item_id for item_id in conditions.allowed if item_id not in self._position)
        return [*self._attributes.unknown_values(conditions), *(f"allowed_item_ids={item_id}" for item_id in ids)]

    def search(self, user: Vector, allowed: Allowed, k: int, boosts: AnyBoosts = NO_BOOSTS) -> Ranked:
        """The `k` items with the largest dot product with `user` [width] and boost; ties go to the earlier item."""
        positions, scores = self._search(user, allowed, k, boosts)
        return self._named(positions, scores)

    def search_many(
        self, users: Sequence[Vector], allowed: Sequence[Allowed], k: Sequence[int], boosts: Sequence[AnyBoosts]
    ) -> list[Ranked]:
        """For each user what `search` finds; faster together where no filter narrows and the search is exact."""
        found = self._together(users, allowed, k, boosts)
        for n, request in enumerate(zip(users, allowed, k, boosts, strict=True)):
            if n not in found:
                found[n] = self._search(*request)
        return [self._named(*found[n]) for n in range(len(users))]

    def popular(self, allowed: Allowed, k: int) -> Ranked:
        """The `k` items with the most interactions; ties go to the earlier item.

        The first few of all items are enough for most filters; for others each allowed item is read once.
        """
        k = min(k, allowed.count)
        first = self._by_popularity[: 4 * k + len(allowed.denied)].astype(np.int64)
        found = first[allowed.holds(first)][:k]
        if len(found) < k:
            ranks = self._popularity_rank[allowed.positions()]
            found = self._by_popularity[np.sort(np.partition(ranks, k - 1)[:k])].astype(np.int64)
        return self._named(found, self._popularity[found])

    def _search(self, user: Vector, allowed: Allowed, k: int, boosts: AnyBoosts) -> tuple[Positions, Vector]:
        if self._index and allowed.count > self._narrow:
            positions, scores = self._index.search(user, allowed, k, boosts)
            if len(positions) == min(k, allowed.count):
                return positions, scores
        return exact.search(self._vectors, user, allowed, k, boosts)

    def _together(
        self, users: Sequence[Vector], allowed: Sequence[Allowed], k: Sequence[int], boosts: Sequence[AnyBoosts]
    ) -> dict[int, tuple[Positions, Vector]]:
        """Positions and scores for those users who are better searched for together, by their place."""
        if len(users) < TOGETHER or self._index or self._count >= SWITCH_OVER:
            return {}
        few = min(_FEW, self._count - 1)
        places = [n for n, some in enumerate(allowed) if some.bits is None and 1 <= k[n] <= few]
        if len(places) < TOGETHER:
            return {}
        most = max(k[n] for n in places)
        chosen, denied = np.array([users[n] for n in places]), [allowed[n].denied for n in places]
        added = [boosts[n] for n in places]
        found = exact.search_many(self._vectors, self._longest, chosen, denied, most, added)
        return {n: (best[0][: k[n]], best[1][: k[n]]) for n, best in zip(places, found, strict=True) if best}

    def _known(self, ids: Iterable[str]) -> list[int]:
        return [position for item_id in ids if (position := self._position.get(item_id)) is not None]

    def _named(self, positions: Positions, scores: NDArray[np.float32]) -> Ranked:
        return list(zip(map(self._item, positions.tolist()), scores.tolist(), strict=True))


def _load_vectors(path: Path, items: ItemTable) -> NDArray[np.float32]:
    """A vector for each item.

    Raises:
        BundleError: there are none, or others.
    """
    try:
        vectors: NDArray[np.float32] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: no vectors ({error}): export it again") from None
    if vectors.dtype != np.float32 or vectors.ndim != 2 or len(vectors) != len(items):
        _require_table(path.parent / ITEMS, items)
        raise BundleError(f"{path}: {vectors.dtype}{list(vectors.shape)} for {len(items)} items: export it again")
    if not all(np.isfinite(part).all() for part in _parts(vectors)):
        raise BundleError(f"{path}: holds numbers that are not finite: export it again")
    return vectors


def _require_table(path: Path, items: ItemTable) -> None:
    """A file that is no table has no number of items that vectors could be compared by.

    Raises:
        BundleError: it is none.
    """
    try:
        for _ in items:
            pass
    except (ValueError, TypeError, AttributeError) as error:
        raise BundleError(f"{path}: no table of items ({error}): export it again") from None


def _longest(vectors: NDArray[np.float32]) -> float:
    """Length of the longest row; float64, whose squares neither vanish nor overflow."""
    parts = (np.linalg.norm(part.astype(np.float64), axis=1) for part in _parts(vectors))
    return max((float(part.max()) for part in parts), default=0.0)


def _parts(vectors: NDArray[np.float32]) -> Iterable[NDArray[np.float32]]:
    """A part at a time, so that what is computed of them stays small."""
    return (vectors[start : start + _CHUNK] for start in range(0, len(vectors), _CHUNK))
