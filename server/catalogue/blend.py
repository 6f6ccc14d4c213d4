"""The score of an item: a sum of parts (ranker, memory, text, words, popularity), weighted by a fit on validation data.

Parts that are products of vectors (ranker, text, popularity, newcomer) are concatenated, so that their sum is one dot
product of an item's vector and a request's. The other parts (memory, words) affect few items and are added to them as
boosts. So the items with the best scores are among those with the best products and those with boosts.

An item's vector: the ranker's [d], the sentence vector of its text [s], log(1 + popularity), and 1 if it has no
interactions.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from swiftrec.server.arrays import Positions, Vector, Vectors
from swiftrec.server.catalogue.memory import FLOOR, Memory
from swiftrec.server.catalogue.sparse import NO_BOOSTS, AnyBoosts, Boosts, Entries, merged, summed
from swiftrec.server.catalogue.words import Matches, Words
from swiftrec.server.parts import PARTS

_NO_ITEMS: Positions = np.empty(0, dtype=np.int64)
EXTRA_FEATURES = (
    2  # entries of an item's vector behind its two halves: popularity, and whether the item has no interactions
)


@dataclass(frozen=True, slots=True)
class Weights:
    """The weight of each signal, in log-odds: weights of 1 add the logarithms of independent probabilities.

    Args:
        ranker: of the product of the ranker's user vector and the item's.
        query: of the product of the query's sentence vector and that of the item's text.
        events: of the product with the mean of the events' sentence vectors.
        transitions: of log(1 + probability / floor) that the item follows the last events.
        neighbours: of the sum of the weights between the item and the events.
        words: of the BM25 of the query.
        popularity: of log(1 + interactions).
        newcomer: added to items without interactions.
    """

    ranker: float = 1.0
    query: float = 0.0
    events: float = 0.0
    transitions: float = 0.0
    neighbours: float = 0.0
    words: float = 0.0
    popularity: float = 0.0
    newcomer: float = 0.0

    def without(self, parts: Collection[str]) -> Weights:
        """The weights with those of these parts set to 0."""
        return replace(self, **{name: 0.0 for part in parts for name in PARTS[part]})


SIGNALS = tuple(field.name for field in fields(Weights))


Query = Literal["none", "description", "title"]
QUERIES: tuple[Query, ...] = ("none", "description", "title")
_INSTEAD: Mapping[Query, Sequence[Query]] = {
    "none": ("none",),
    "description": ("description", "title"),
    "title": ("title", "description"),
}  # kinds of query whose weights are used, in order of preference


@dataclass(frozen=True, slots=True)
class BlendRow:
    """The weights for requests with a kind of query and at least `events` events.

    `server.catalogue.words.Matches.is_title` decides whether a query is a title.
    """

    query: Query
    events: int
    weights: Weights


def _row(number: int, row: Mapping[str, Any]) -> BlendRow:
    """Read a row of the manifest.

    Raises:
        ValueError: the row is invalid.
    """
    try:
        query, events, weights = row["query"], row["events"], dict(row["weights"])
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"row {number} lacks its query, events or weights") from None
    if query not in QUERIES:
        raise ValueError(f"row {number} has the query {query!r}: it must be one of {', '.join(QUERIES)}")
    if type(events) is not int or events < 0:
        raise ValueError(f"row {number} has {events!r} for its number of events")
    if {*weights} != {*SIGNALS}:
        names = ", ".join(sorted({*weights} ^ {*SIGNALS}))
        raise ValueError(f"row {number} has missing or unknown weights: {names}")
    for name, value in weights.items():
        if type(value) not in (int, float) or not math.isfinite(value):
            raise ValueError(f"row {number} has {value!r} for the weight of {name}, which is not a finite number")
    return BlendRow(query, events, Weights(**weights))


class Blend:
    """Weights by the kind of the query and the number of events of a request."""

    def __init__(self, rows: Sequence[BlendRow]) -> None:
        self.rows = sorted(rows, key=lambda row: (row.query, -row.events))

    @classmethod
    def read(cls, rows: Sequence[Mapping[str, Any]]) -> Self:
        """Read the rows of the manifest, which have the fields of `BlendRow`; without rows only the ranker counts.

        Raises:
            ValueError: a row is missing or invalid.
        """
        parts = [_row(number, row) for number, row in enumerate(rows)]
        groups = {(row.query, row.events) for row in parts}
        if len(groups) < len(parts):
            raise ValueError("two rows are for the same kind of query and number of events")
        if parts and not any(query == "none" and events <= 1 for query, events in groups):
            raise ValueError("no row is for requests with one event and no query")
        if parts and not any(query != "none" and not events for query, events in groups):
            raise ValueError("no row is for requests with a query and no event")
        return cls(parts)

    def without(self, parts: Collection[str]) -> Blend:
        """The blend with these parts switched off; if only the ranker is left, it counts even if its weight is 0."""
        if set(PARTS) - set(parts) == {"ranker"}:
            return Blend([])
        return Blend([replace(row, weights=row.weights.without(parts)) for row in self.rows])

    def weights(self, events: int, query: Query) -> Weights:
        """The weights for a request; if none were fitted for its kind of query, those of the other kind."""
        kinds: Sequence[Query] = _INSTEAD[query]
        fitting = (row.weights for kind in kinds for row in self.rows if row.query == kind and row.events <= events)
        return next(fitting, Weights())


@dataclass(frozen=True, slots=True)
class ScoringInput:
    """The data of a request for the parts of the score other than the ranker.

    Args:
        events: number of events that the ranker reads.
        items: positions of those that are items, oldest first.
        sentences: sentence vectors of all events, [events, s].
        query: empty if there is none.
        query_sentence: sentence vector of the query [s], or None.
    """

    events: int
    items: Positions
    sentences: Vectors
    query: str = ""
    query_sentence: Vector | None = None


@dataclass(frozen=True, slots=True)
class ScoreTerms:
    """The weighted score terms of a request: the ranker's weight, the other entries of its vector, and boosts."""

    ranker: float
    rest: Vector
    boosts: AnyBoosts

    @property
    def is_zero(self) -> bool:
        """Whether all terms are zero, for example with only the memory and a request without events."""
        return not self.ranker and not self.rest.any() and not len(self.boosts.listed().positions)

    def at(self, user: Vector) -> Vector:
        """The vector to compare with the items' vectors, for a user vector [d]."""
        return np.concatenate([np.float32(self.ranker) * user, self.rest])


class Scoring:
    """Computes the score terms of requests.

    Args:
        blend: the weights.
        memory: of the catalogue.
        words: of the catalogue.
        items: number of items in the catalogue.
    """

    def __init__(self, blend: Blend, memory: Memory, words: Words, items: int) -> None:
        self.blend, self.memory, self.words, self._items = blend, memory, words, items

    def with_blend(self, blend: Blend) -> Scoring:
        """The same scoring with other weights."""
        return Scoring(blend, self.memory, self.words, self._items)

    def request_terms(self, request: ScoringInput) -> ScoreTerms:
        """The terms of one request."""
        return self.terms([request])[0]

    def terms(self, requests: Sequence[ScoringInput]) -> list[ScoreTerms]:
        """The terms of one or more requests; the terms of a request do not depend on the others."""
        if not self.blend.rows:  # only the ranker counts
            return [
                ScoreTerms(1.0, np.zeros(request.sentences.shape[1] + EXTRA_FEATURES, np.float32), NO_BOOSTS)
                for request in requests
            ]
        matches = self._matches(requests)
        weights = self._weights(requests, matches)
        boosts = summed([*self._added(weights, requests, matches).values()], len(requests), self._items)
        return [
            ScoreTerms(
                row.ranker, np.concatenate([_sentence(row, request), (row.popularity, row.newcomer)], dtype="f4"), added
            )
            for row, request, added in zip(weights, requests, boosts, strict=True)
        ]

    def weights(self, request: ScoringInput) -> Weights:
        """The weights for a request."""
        return self._weights([request], self._matches([request]))[0]

    def query(self, text: str) -> Query:
        """The kind of a query; "" is no query."""
        return _kind(text, Matches(self.words, [text], self._items).is_title[0])

    def added(self, weights: Weights, request: ScoringInput) -> dict[str, Boosts]:
        """The weighted boosts of memory and words, by signal; without signals that have no weight."""
        parts = self._added([weights], [request], self._matches([request]))
        return {
            name: summed([entries], 1, self._items)[0].listed()
            for name, entries in parts.items()
            if getattr(weights, name)
        }

    def _matches(self, requests: Sequence[ScoringInput]) -> Matches:
        return Matches(self.words, [request.query for request in requests], self._items)

    def _weights(self, requests: Sequence[ScoringInput], matches: Matches) -> list[Weights]:
        parts = zip(requests, matches.is_title.tolist(), strict=True)
        return [self.blend.weights(request.events, _kind(request.query, is_title)) for request, is_title in parts]

    def _added(
        self, weights: Sequence[Weights], requests: Sequence[ScoringInput], matches: Matches
    ) -> dict[str, Entries]:
        """The weighted boosts of each sparse signal."""
        signals = ("transitions", "neighbours", "words")
        by_signal = np.array([[getattr(row, name) for name in signals] for row in weights], dtype=np.float32)
        pairs = [*zip(requests, weights, strict=True)]
        chances = self.memory.next_chances([request.items if row.transitions else _NO_ITEMS for request, row in pairs])
        chances = merged(chances, len(requests), self._items)
        odds = np.log(chances.values * np.float32(1 / FLOOR) + np.float32(1))
        near = self.memory.near_weights([request.items if row.neighbours else _NO_ITEMS for request, row in pairs])
        parts = chances._replace(values=odds), near, matches.boosts
        return {name: part.weighted(by_signal[:, n]) for n, (name, part) in enumerate(zip(signals, parts, strict=True))}


def _kind(query: str, is_title: bool) -> Query:
    if not query:
        return "none"
    return "title" if is_title else "description"


def _sentence(weights: Weights, request: ScoringInput) -> Vector:
    """The vector to multiply with the items' sentence vectors, [s]."""
    parts = [np.float32(weights.query) * request.query_sentence] if request.query_sentence is not None else []
    if len(request.sentences) and weights.events:
        parts.append(np.float32(weights.events / len(request.sentences)) * np.add.reduce(request.sentences))
    return sum(parts[1:], parts[0]) if parts else np.zeros(request.sentences.shape[1], dtype=np.float32)


def item_vectors(ranker: Vectors, sentences: Vectors, popularity: NDArray[np.number[Any]]) -> Vectors:
    """The items' vectors [items, d + s + EXTRA_FEATURES], from both halves and the number of interactions."""
    features = np.stack([np.log1p(popularity), popularity == 0], axis=1)
    return np.concatenate([ranker, sentences, features], axis=1, dtype=np.float32)
