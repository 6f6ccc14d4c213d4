"""The components used by the stages of the pipeline, and the measured speed of the stages."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from swiftrec.server.arrays import Vector
from swiftrec.server.batching.cost_model import Rate
from swiftrec.server.batching.scheduler import Limits, batch_capacity
from swiftrec.server.catalogue.blend import Scoring
from swiftrec.server.catalogue.catalogue import Catalogue
from swiftrec.server.catalogue.history import Names
from swiftrec.server.catalogue.lru import LruCache
from swiftrec.server.models.networks import UserSequence
from swiftrec.server.pipeline.model_runner import ModelRunner
from swiftrec.server.pipeline.request_state import RequestState, TextState

_ENTRY_BYTES = 360  # overhead of an entry of the cache: the objects and its share of the dictionary


class VectorCache:
    """An LRU cache with a limit in bytes.

    Args:
        capacity_bytes: 0 turns it off.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self._vectors: LruCache[bytes, Vector] = LruCache(capacity_bytes)

    @property
    def size_bytes(self) -> int:
        """Size of all entries."""
        return self._vectors.size_bytes

    def get(self, key: bytes) -> Vector | None:
        """The vector, which becomes the most recently used; None if it is not cached."""
        return self._vectors.get(key)

    def put(self, key: bytes, vector: Vector) -> None:
        """Store a copy, since a row would keep its whole batch in memory."""
        self._vectors.put(key, vector.copy(), len(key) + vector.nbytes + _ENTRY_BYTES)


class TextTokenizer(Protocol):
    """Tokenises texts."""

    def encode(self, texts: Sequence[str], /) -> list[list[int]]:
        """Token ids of each text."""


class LookupRecorder(Protocol):
    """Records the sources of vectors of texts."""

    def on_lookup(self, source: str, texts: int, /) -> None:
        """Count texts by the source of their vector: a cache "hit", a "miss", or "coalesced" with an equal text."""


@dataclass(slots=True)
class StageRates:
    """Measured time of the stages that run no model, each for a unit of its work."""

    score: Rate = field(default_factory=lambda: Rate(5e-5))  # the other parts of the score, for a request
    search: Rate = field(default_factory=lambda: Rate(1e-4))  # a search without a filter
    filtered_search: Rate = field(default_factory=lambda: Rate(2e-4))  # a search with a filter, without resolving it
    filter: Rate = field(default_factory=lambda: Rate(1e-9))  # a word read to resolve a filter
    popular: Rate = field(default_factory=lambda: Rate(2e-5))  # a ranking by popularity

    def of(self, state: RequestState) -> Rate:
        """The rate of the retrieval of a request."""
        if not state.event_count:
            return self.popular
        return self.search if state.request.conditions.is_empty else self.filtered_search


@dataclass(frozen=True, slots=True)
class Stages:
    """The components of the pipeline of one bundle.

    Args:
        max_history: events that the ranker reads.
        exclude_history: default of requests that do not set it.
        sessions: batches of a model that run at the same time.
        lookups: records cache look-ups.
    """

    tokenizer: TextTokenizer
    encoder: ModelRunner[Sequence[int]]
    ranker: ModelRunner[UserSequence]
    catalogue: Catalogue
    scoring: Scoring
    names: Names
    cache: VectorCache
    limits: Limits
    max_history: int
    exclude_history: bool = True
    sessions: int = 1
    lookups: LookupRecorder | None = None
    clock: Callable[[], float] = time.monotonic
    rates: StageRates = field(default_factory=StageRates)

    def predict(self, state: TextState) -> None:
        """Set the tokens and the predicted cost of a request: encoding of uncached texts, ranking, search."""
        limits = self.limits
        lengths = [len(row) for row, vector in zip(state.rows, state.vectors, strict=True) if vector is None]
        cost = self.encoder.cost
        state.tokens = sum(lengths)
        state.cost_s = sum(cost.cheapest_row_s(n, batch_capacity(n, limits)) for n in lengths) / self.sessions
        state.batch_s = cost.batch_s if lengths else 0.0
        if isinstance(state, RequestState):
            if events := state.event_count:
                state.cost_s += self.ranker.cost.cheapest_row_s(events, batch_capacity(events, limits)) / self.sessions
                state.batch_s += self.ranker.cost.batch_s
                state.cost_s += self.rates.score(1)
            state.cost_s += self.rates.of(state)(1) + self.rates.filter(state.filter_work)
