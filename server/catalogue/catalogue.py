"""Items and their vectors, with exact search under a filter."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from server.errors import BundleError, InvalidRequest

ITEMS = "items.jsonl"
VECTORS = "vectors.npy"

Mask = NDArray[np.bool_]
Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Item:
    """One item; `popularity` counts its interactions in the data that the bundle was made from."""

    id: str
    title: str
    text: str
    attributes: dict[str, list[str]]
    popularity: float


@dataclass(frozen=True, slots=True)
class AttributeValues:
    """An attribute and values."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Filter:
    """Conditions that hold together; empty ones do not narrow."""

    allowed: frozenset[str] = frozenset()
    denied: frozenset[str] = frozenset()
    any_of: tuple[AttributeValues, ...] = ()
    all_of: tuple[AttributeValues, ...] = ()
    none_of: tuple[AttributeValues, ...] = ()


class Catalogue:
    """Items, `vectors` float32 [items, dimensions], and for each attribute value the mask of its items."""

    def __init__(self, items: Sequence[Item], vectors: NDArray[np.float32]) -> None:
        self.items = items
        self._vectors = vectors
        self._popularity = np.array([item.popularity for item in items], dtype=np.float32)
        self._position = {item.id: n for n, item in enumerate(items)}
        self._masks: dict[str, dict[str, Mask]] = {}
        for n, item in enumerate(items):
            for name, values in item.attributes.items():
                for value in values:
                    masks = self._masks.setdefault(name, {})
                    masks.setdefault(value, np.zeros(len(items), dtype=np.bool_))[n] = True

    @classmethod
    def load(cls, folder: Path) -> Catalogue:
        """Read `items.jsonl` and `vectors.npy`.

        Raises:
            BundleError: they do not belong together.
        """
        try:
            lines = (folder / ITEMS).read_text(encoding="utf-8").splitlines()
            items = [Item(**json.loads(line)) for line in lines]
        except (OSError, ValueError, TypeError) as error:
            raise BundleError(f"{folder / ITEMS}: no table of items ({error}): export it again") from None
        try:
            vectors = np.load(folder / VECTORS, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise BundleError(f"{folder / VECTORS}: no vectors ({error}): export it again") from None
        if vectors.dtype != np.float32 or vectors.ndim != 2 or len(vectors) != len(items):
            raise BundleError(f"{folder / VECTORS}: {vectors.dtype}{list(vectors.shape)} for {len(items)} items")
        if not np.isfinite(vectors).all():
            raise BundleError(f"{folder / VECTORS}: holds numbers that are not finite: export it again")
        return cls(items, vectors)

    @property
    def dimensions(self) -> int:
        """Length of a vector."""
        return int(self._vectors.shape[1])

    def vector(self, item_id: str) -> Vector | None:
        """The item's vector [dimensions], or None if there is no such item."""
        position = self._position.get(item_id)
        return None if position is None else self._vectors[position]

    def mask(self, conditions: Filter, seen: Iterable[str]) -> Mask:
        """Which items may be answered, [items].

        Raises:
            InvalidRequest: an attribute is named that no item has.
        """
        allowed = (
            np.zeros(len(self.items), dtype=np.bool_) if conditions.allowed else np.ones(len(self.items), np.bool_)
        )
        for item_id in conditions.allowed:
            if item_id in self._position:
                allowed[self._position[item_id]] = True
        for item_id in (*conditions.denied, *seen):
            if item_id in self._position:
                allowed[self._position[item_id]] = False
        for n, condition in enumerate(conditions.any_of):
            allowed &= np.logical_or.reduce(self._of(condition, f"filter.any_of[{n}].name"))
        for n, condition in enumerate(conditions.all_of):
            allowed &= np.logical_and.reduce(self._of(condition, f"filter.all_of[{n}].name"))
        for n, condition in enumerate(conditions.none_of):
            allowed &= ~np.logical_or.reduce(self._of(condition, f"filter.none_of[{n}].name"))
        return allowed

    def search(self, user: Vector, mask: Mask, k: int) -> list[tuple[Item, float]]:
        """The `k` items with the largest dot product with `user` [dimensions]; ties go to the earlier item."""
        return self._top(self._vectors @ user, mask, k)

    def popular(self, mask: Mask, k: int) -> list[tuple[Item, float]]:
        """The `k` items with the most interactions; ties go to the earlier item."""
        return self._top(self._popularity, mask, k)

    def _of(self, condition: AttributeValues, field: str) -> list[Mask]:
        masks = self._masks.get(condition.name)
        if masks is None:
            raise InvalidRequest(
                field, f"unknown attribute {condition.name!r}; known: {', '.join(sorted(self._masks))}"
            )
        nothing = np.zeros(len(self.items), dtype=np.bool_)
        return [masks.get(value, nothing) for value in condition.values]

    def _top(self, scores: NDArray[np.float32], mask: Mask, k: int) -> list[tuple[Item, float]]:
        positions = np.flatnonzero(mask)
        order = np.argsort(-scores[positions], kind="stable")[:k]
        return [(self.items[n], float(scores[n])) for n in positions[order]]
