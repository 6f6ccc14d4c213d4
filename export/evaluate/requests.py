"""Requests of the evaluation as the pipeline of the server sees them, and which texts in them are items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from swiftrec.server.arrays import Vector, Vectors
from swiftrec.server.catalogue.blend import (
    ScoringInput,
)
from swiftrec.server.catalogue.history import Resolver
from swiftrec.server.catalogue.sparse import AnyBoosts
from swiftrec.server.models.networks import EventKind


class CachedNames:
    """Looks texts up in the names of items, and caches the results by the text.

    A text has one sentence vector throughout an evaluation, so the text is enough as the key.

    Args:
        names: which item a text is.
    """

    def __init__(self, names: Resolver) -> None:
        self._names = names
        self._named: dict[str, int | None] = {}
        self._meant: dict[str, int | None] = {}

    def by_name(self, text: str) -> int | None:
        """The item of that name, as `Names` finds it."""
        if text not in self._named:
            self._named[text] = self._names.by_name(text)
        return self._named[text]

    def by_meaning(self, text: str, sentence: Vector) -> int | None:
        """The item of that meaning, as `Names` finds it."""
        if text not in self._meant:
            self._meant[text] = self._names.by_meaning(text, sentence)
        return self._meant[text]


@dataclass(slots=True)
class EncodedRequest:
    """One request as the pipeline sees it once every text is encoded.

    `items` are the positions of the events that are items, `sentences` the sentence vectors of all events and of the
    query behind them, each [s].
    """

    vectors: list[Vector] = field(default_factory=list)
    kinds: list[EventKind] = field(default_factory=list)
    items: list[int] = field(default_factory=list)
    sentences: list[Vector] = field(default_factory=list)
    query: str = ""

    def known(self, width: int) -> ScoringInput:
        """What the other parts of a score know of the request; sentence vectors have `width` entries."""
        events = len(self.kinds) - bool(self.query)
        sentences = np.array(self.sentences[:events], dtype=np.float32).reshape(events, width)
        query = self.sentences[-1] if self.query else None
        return ScoringInput(events, np.array(self.items, dtype=np.int64), sentences, self.query, query)


@dataclass(frozen=True, slots=True)
class RequestVectors:
    """The vectors of some requests, float32 [requests, width], and the boosts that are added to the scores of each."""

    vectors: Vectors
    boosts: Sequence[AnyBoosts]
