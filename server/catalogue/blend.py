"""One score of parts: ranker, memory, text match, words and popularity, each with a weight fitted on validation.

Parts that are a product of vectors (ranker, text match, popularity, newcomers) are laid side by side, so that an item's
vector and a request's have one product. The others (memory, words) say something of few items only and are added there.
So the best items of the whole score are among the best by the product and those that something is added to.

An item's vector: the ranker's [d], the sentence vector of its text [s], log(1 + popularity), and 1 if nobody took it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from swiftrec.server.catalogue.sparse import (
    FLOOR,
    NO_BOOSTS,
    AnyBoosts,
    Boosts,
    Entries,
    Memory,
    Positions,
    merged,
    summed,
)
from swiftrec.server.catalogue.words import Matches, Words
from swiftrec.server.parts import PARTS

Vector = NDArray[np.float32]
Vectors = NDArray[np.float32]

_NO_ITEMS: Positions = np.empty(0, dtype=np.int64)
FACTS = 2  # entries of an item's vector behind its two halves: popularity, newcomer


@dataclass(frozen=True, slots=True)
class Weights:
    """How much each signal counts; in log-odds, so that weights of 1 add the logarithms of independent chances.

    Args:
        ranker: of the product of the ranker's user vector and the item's.
        query: of the product of the query's sentence vector and that of the item's text.
        events: of the same with the mean of the events' sentence vectors.
        transitions: of log(1 + chance / floor) that the item follows the last events.
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
        """The same with the weights of these parts at 0."""
        return replace(self, **{name: 0.0 for part in parts for name in PARTS[part]})


SIGNALS = tuple(field.name for field in fields(Weights))


Query = Literal["none", "description", "title"]
QUERIES: tuple[Query, ...] = ("none", "description", "title")
_INSTEAD: Mapping[Query, Sequence[Query]] = {
    "none": ("none",),
    "description": ("description", "title"),
    "title": ("title", "description"),
}  # kinds whose weights are taken, the first that there are


@dataclass(frozen=True, slots=True)
class Row:
    """The weights of requests of a kind that have at least so many events.

    Whether a query is a title, `server.catalogue.words.Matches.is_title` tells.
    """

    query: Query
    events: int
    weights: Weights


def _row(number: int, row: Mapping[str, Any]) -> Row:
    """One row of the manifest.

    Raises:
        ValueError: says what is wrong with it.
    """
    try:
        query, events, weights = row["query"], row["events"], dict(row["weights"])
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"row {number} lacks its query, events or weights") from None
    if query not in QUERIES:
        raise ValueError(f"row {number} has the query {query!r}, which is none of {', '.join(QUERIES)}")
    if type(events) is not int or events < 0:
        raise ValueError(f"row {number} has {events!r} for its number of events")
    if {*weights} != {*SIGNALS}:
        names = ", ".join(sorted({*weights} ^ {*SIGNALS}))
        raise ValueError(f"row {number} has other weights than those of the signals: {names}")
    for name, value in weights.items():
        if type(value) not in (int, float) or not math.isfinite(value):
            raise ValueError(f"row {number} has {value!r} for the weight of {name}, which is no finite number")
    return Row(query, events, Weights(**weights))


class Blend:
    """Weights by kind of request: what its query is, and the number of events."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = sorted(rows, key=lambda row: (row.query, -row.events))

    @classmethod
    def read(cls, rows: Sequence[Mapping[str, Any]]) -> Self:
        """Of the manifest: rows with the fields of `Row`; without any the ranker alone counts.

        Raises:
            ValueError: says what it lacks or what is wrong with which row.
        """
        found = [_row(number, row) for number, row in enumerate(rows)]
        groups = {(row.query, row.events) for row in found}
        if len(groups) < len(found):
            raise ValueError("two rows are of the same kind of query and number of events")
        if found and not any(query == "none" and events <= 1 for query, events in groups):
            raise ValueError("no row is of requests with one event and no query")
        if found and not any(query != "none" and not events for query, events in groups):
            raise ValueError("no row is of requests with a query and no event")
        return cls(found)

    def without(self, parts: Collection[str]) -> Blend:
        """The same with these parts switched off; the ranker alone counts even where the fit gave it no weight."""
        if set(PARTS) - set(parts) == {"ranker"}:
            return Blend([])
        return Blend([replace(row, weights=row.weights.without(parts)) for row in self.rows])

    def weights(self, events: int, query: Query) -> Weights:
        """Of a request; of a kind that nothing was fitted for, those of the other kind of query."""
        kinds: Sequence[Query] = _INSTEAD[query]
        fitting = (row.weights for kind in kinds for row in self.rows if row.query == kind and row.events <= events)
        return next(fitting, Weights())


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a request beside the ranker's user vector.

    Args:
        events: how many events the ranker reads.
        items: positions of those that are items, oldest first.
        sentences: sentence vectors of all of them, [events, s].
        query: the query's words; empty without one.
        query_sentence: the query's sentence vector [s], None without one.
    """

    events: int
    items: Positions
    sentences: Vectors
    query: str = ""
    query_sentence: Vector | None = None


@dataclass(frozen=True, slots=True)
class Aim:
    """What a request adds to its user vector: the vector's other entries, already weighted, and boosts."""

    ranker: float
    rest: Vector
    boosts: AnyBoosts

    @property
    def is_silent(self) -> bool:
        """Whether nothing says anything, as with the memory alone and a request without events."""
        return not self.ranker and not self.rest.any() and not len(self.boosts.listed().positions)

    def at(self, user: Vector) -> Vector:
        """The vector that is compared with the items', for a user vector [d]."""
        return np.concatenate([np.float32(self.ranker) * user, self.rest])


class Scoring:
    """What turns requests into aims.

    Args:
        blend: the weights.
        memory: of the catalogue.
        words: of the catalogue.
        items: its size.
    """

    def __init__(self, blend: Blend, memory: Memory, words: Words, items: int) -> None:
        self.blend, self.memory, self.words, self._items = blend, memory, words, items

    def with_blend(self, blend: Blend) -> Scoring:
        """The same with other weights."""
        return Scoring(blend, self.memory, self.words, self._items)

    def aim(self, known: Known) -> Aim:
        """Of one request."""
        return self.aims([known])[0]

    def aims(self, asked: Sequence[Known]) -> list[Aim]:
        """Of one or more requests; what a request gets does not depend on the others."""
        if not self.blend.rows:  # the ranker alone counts: what is off costs nothing
            return [Aim(1.0, np.zeros(known.sentences.shape[1] + FACTS, np.float32), NO_BOOSTS) for known in asked]
        matches = self._matches(asked)
        weights = self._weights(asked, matches)
        boosts = summed([*self._added(weights, asked, matches).values()], len(asked), self._items)
        return [
            Aim(row.ranker, np.concatenate([_sentence(row, known), (row.popularity, row.newcomer)], dtype="f4"), added)
            for row, known, added in zip(weights, asked, boosts, strict=True)
        ]

    def weights(self, known: Known) -> Weights:
        """Of a request, by its kind."""
        return self._weights([known], self._matches([known]))[0]

    def query(self, text: str) -> Query:
        """What a query is; empty for none."""
        return _kind(text, Matches(self.words, [text], self._items).is_title[0])

    def added(self, weights: Weights, known: Known) -> dict[str, Boosts]:
        """What memory and words add, by signal, weighted; signals without weight are left out."""
        found = self._added([weights], [known], self._matches([known]))
        return {
            name: summed([entries], 1, self._items)[0].listed()
            for name, entries in found.items()
            if getattr(weights, name)
        }

    def _matches(self, asked: Sequence[Known]) -> Matches:
        return Matches(self.words, [known.query for known in asked], self._items)

    def _weights(self, asked: Sequence[Known], matches: Matches) -> list[Weights]:
        found = zip(asked, matches.is_title.tolist(), strict=True)
        return [self.blend.weights(known.events, _kind(known.query, is_title)) for known, is_title in found]

    def _added(self, weights: Sequence[Weights], asked: Sequence[Known], matches: Matches) -> dict[str, Entries]:
        """What each signal adds that says something of few items, weighted."""
        signals = ("transitions", "neighbours", "words")
        by_signal = np.array([[getattr(row, name) for name in signals] for row in weights], dtype=np.float32)
        pairs = [*zip(asked, weights, strict=True)]
        chances = self.memory.next_chances([known.items if row.transitions else _NO_ITEMS for known, row in pairs])
        chances = merged(chances, len(asked), self._items)
        odds = np.log(chances.values * np.float32(1 / FLOOR) + np.float32(1))
        near = self.memory.near_weights([known.items if row.neighbours else _NO_ITEMS for known, row in pairs])
        found = chances._replace(values=odds), near, matches.boosts
        return {name: part.weighted(by_signal[:, n]) for n, (name, part) in enumerate(zip(signals, found, strict=True))}


def _kind(query: str, is_title: bool) -> Query:
    if not query:
        return "none"
    return "title" if is_title else "description"


def _sentence(weights: Weights, known: Known) -> Vector:
    """What items' sentence vectors are multiplied with, [s]."""
    parts = [np.float32(weights.query) * known.query_sentence] if known.query_sentence is not None else []
    if len(known.sentences) and weights.events:
        parts.append(np.float32(weights.events / len(known.sentences)) * np.add.reduce(known.sentences))
    return sum(parts[1:], parts[0]) if parts else np.zeros(known.sentences.shape[1], dtype=np.float32)


def item_vectors(ranker: Vectors, sentences: Vectors, popularity: NDArray[np.number[Any]]) -> Vectors:
    """The items' vectors [items, d + s + FACTS] from their halves and how often each was taken."""
    facts = np.stack([np.log1p(popularity), popularity == 0], axis=1)
    return np.concatenate([ranker, sentences, facts], axis=1, dtype=np.float32)
