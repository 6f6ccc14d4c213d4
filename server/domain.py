"""The data types of the domain: requests, events and recommendations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

PRIORITIES = range(10)  # 1 is the most urgent, 9 the least, 0 means the default
DEFAULT_PRIORITY = 5


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """One item; `popularity` counts its interactions in the data that the bundle was made from.

    Compared by identity, so that it can be a cache key.
    """

    id: str
    title: str
    text: str
    attributes: dict[str, list[str]]
    popularity: float


@dataclass(frozen=True, slots=True)
class AttributeValues:
    """An attribute and its distinct values."""

    name: str
    values: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(dict.fromkeys(self.values)))


_AnyNumber: TypeAlias = "tuple[AttributeValues, ...]"
AttributeConditions: TypeAlias = "tuple[_AnyNumber, _AnyNumber, _AnyNumber]"


@dataclass(frozen=True, slots=True)
class Filter:
    """Conditions, all of which must be met; empty ones do not restrict. `is_empty`: there is no condition."""

    allowed: frozenset[str] = frozenset()
    denied: frozenset[str] = frozenset()
    any_of: tuple[AttributeValues, ...] = ()
    all_of: tuple[AttributeValues, ...] = ()
    none_of: tuple[AttributeValues, ...] = ()
    is_empty: bool = field(init=False, repr=False, compare=False)  # read several times for each request

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_empty", not (self.allowed or self.denied or any(self.on_attributes)))

    @property
    def on_attributes(self) -> AttributeConditions:
        """The conditions on attributes, which do not depend on the user."""
        return self.any_of, self.all_of, self.none_of


@dataclass(frozen=True, slots=True)
class ItemEvent:
    """An item that the user interacted with."""

    item_id: str


@dataclass(frozen=True, slots=True)
class TextEvent:
    """A text in the history of the user."""

    text: str


@dataclass(frozen=True, slots=True)
class Request:
    """A validated request; if `exclude_history` is None, the default of the bundle applies."""

    history: tuple[ItemEvent | TextEvent, ...] = ()
    query: str = ""
    top_k: int = 10
    conditions: Filter = field(default_factory=Filter)
    exclude_history: bool | None = None
    priority: int = DEFAULT_PRIORITY


class Strategy(Enum):
    """How a ranking was made."""

    MODEL = "model"
    POPULARITY = "popularity"


@dataclass(slots=True)
class Timings:
    """Wall time of each step, in milliseconds."""

    tokenise_ms: float = 0.0
    encode_ms: float = 0.0
    rank_ms: float = 0.0
    retrieve_ms: float = 0.0
    total_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Recommendation:
    """Ranked items, and how the ranking was made.

    `resolved` are text events that were recognised as items: their index in the history, and the item's id.
    `unknown_filter_values` are values of the filter that no item has (`Catalogue.unknown_values`).
    """

    items: list[tuple[Item, float]]
    unknown_item_ids: list[str]
    strategy: Strategy
    events_used: int
    timings: Timings
    unknown_filter_values: Sequence[str] = ()
    resolved: Sequence[tuple[int, str]] = ()
