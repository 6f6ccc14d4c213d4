"""The data types of the domain: requests, events and recommendations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from swiftrec.server.batching.scheduler import DEFAULT_PRIORITY
from swiftrec.server.catalogue.catalogue import Filter, Item


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
