"""The steps of one request: texts to vectors, vectors to a user vector, user vector to items.

They are driven by callbacks: the thread that finishes a request's last encoding queues its ranking.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from server.batching.batcher import Batcher
from server.catalogue.catalogue import Catalogue, Item
from server.catalogue.filters import Allowed
from server.errors import SwiftrecError
from server.models.ranker import Kind, UserSequence
from server.pipeline.call import Call
from server.pipeline.domain import ItemEvent, Recommendation, Request, Strategy, Timings
from server.pipeline.encodings import Encodings

Vector = NDArray[np.float32]
_NONE: Vector = np.empty(0, dtype=np.float32)


class Texts(Protocol):
    """What turns texts into token ids: a tokenizer."""

    def encode(self, texts: Sequence[str], /) -> list[list[int]]:
        """Token ids of each text."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What the steps of one bundle work with."""

    tokenizer: Texts
    encodings: Encodings
    ranker: Batcher[UserSequence, Vector]
    catalogue: Catalogue
    max_history: int
    clock: Callable[[], float] = time.monotonic


class Encoding:
    """The texts of one request on their way to vectors.

    Args:
        parts: what to work with.
        texts: one or more.
        call: whose work this is.
        priority: 1 (most urgent) to 9.
        then: called once, with one vector for each text or with the first error; nothing else happens after an error.
    """

    def __init__(
        self,
        parts: Parts,
        texts: Sequence[str],
        call: Call,
        priority: int,
        then: Callable[[SwiftrecError | None], None],
    ) -> None:
        self._encodings, self._call, self._priority, self._then = parts.encodings, call, priority, then
        self._texts, self._tokenizer, self._clock = texts, parts.tokenizer, parts.clock
        self.vectors: list[Vector] = [_NONE] * len(texts)
        self.tokenise_s = 0.0
        self._lock = threading.Lock()
        self._missing = len(texts)
        self._takes_back: list[Callable[[], None]] = []

    def start(self) -> None:
        """Tokenise and queue."""
        started = self._clock()
        rows = self._tokenizer.encode(self._texts)
        self.tokenise_s = self._clock() - started
        self._call.on_cancel(self.take_back)
        for place, row in enumerate(rows):
            try:
                taken = self._encodings.submit(row, self._call.deadline, self._priority, partial(self._arrived, place))
            except SwiftrecError as error:
                self._arrived(place, error)
                return
            if taken:
                self._takes_back.append(taken)
                if self._missing <= 0 or self._call.is_cancelled:  # it was over before this text was queued
                    taken()

    def take_back(self) -> None:
        """Whatever has not started never runs."""
        for taken in list(self._takes_back):
            taken()

    def _arrived(self, place: int, result: Vector | SwiftrecError) -> None:
        error = result if isinstance(result, SwiftrecError) else None
        with self._lock:
            if self._missing <= 0:
                return
            self._missing = 0 if error else self._missing - 1
            if not isinstance(result, SwiftrecError):
                self.vectors[place] = result
            if self._missing:
                return
        if error:
            self.take_back()
        self._then(error)


class Ranking:
    """One request on its way to a user vector; the last step is taken for several at once (`outcomes`).

    Attributes:
        request: what is asked.
        allowed: the items that may be answered.
        user: the user's vector, once it is there; None where nothing is known of the user.
        error: what it met.
        timings: of the steps so far.
    """

    allowed: Allowed

    def __init__(self, parts: Parts, request: Request, call: Call) -> None:
        self._parts, self.request, self._call = parts, request, call
        self._ignored: list[str] = []
        self._kinds: list[Kind] = []
        self._vectors: list[Vector] = []
        self.timings = Timings()
        self.user: Vector | None = None
        self.error: SwiftrecError | None = None
        self._started = self._since = parts.clock()

    def start(self) -> None:
        """Check the filter, look up items, queue texts."""
        try:
            self.allowed = self._parts.catalogue.mask(self.request.conditions, self._seen())
            texts, places = self._gather()
            if texts:
                self._encoding = Encoding(
                    self._parts, texts, self._call, self.request.priority, partial(self._encoded, places)
                )
                self._encoding.start()
            else:
                self._rank()
        except SwiftrecError as error:
            self._end(error)

    def answer(self, items: list[tuple[Item, float]], retrieve_s: float) -> Recommendation:
        """With these items, for which it took so long."""
        self.timings.retrieve_ms = 1e3 * retrieve_s
        self.timings.total_ms = 1e3 * (self._parts.clock() - self._started)
        strategy = Strategy.POPULARITY if self.user is None else Strategy.MODEL
        used = len(self._kinds) - bool(self.request.query)
        return Recommendation(items, self._ignored, strategy, used, self.timings)

    def _seen(self) -> list[str]:
        if not self.request.exclude_history:
            return []
        return [event.item_id for event in self.request.history if isinstance(event, ItemEvent)]

    def _gather(self) -> tuple[list[str], list[int]]:
        """Kinds and vectors of the last events and the query; texts to encode and where their vectors belong."""
        events: list[tuple[Kind, Vector | str]] = []
        for event in self.request.history:
            if not isinstance(event, ItemEvent):
                events.append((Kind.TEXT, event.text))
            elif (vector := self._parts.catalogue.vector(event.item_id)) is not None:
                events.append((Kind.ITEM, vector))
            else:
                self._ignored.append(event.item_id)
        events = events[-self._parts.max_history :]
        if self.request.query:
            events.append((Kind.QUERY, self.request.query))
        self._kinds = [kind for kind, _ in events]
        self._vectors = [_NONE if isinstance(what, str) else what for _, what in events]
        places = [place for place, (_, what) in enumerate(events) if isinstance(what, str)]
        return [what for _, what in events if isinstance(what, str)], places

    def _encoded(self, places: list[int], error: SwiftrecError | None) -> None:
        if error:
            self._end(error)
            return
        for place, vector in zip(places, self._encoding.vectors, strict=True):
            self._vectors[place] = vector
        self.timings.tokenise_ms = 1e3 * self._encoding.tokenise_s
        self.timings.encode_ms = self._lap() - self.timings.tokenise_ms
        try:
            self._rank()
        except SwiftrecError as refusal:
            self._end(refusal)

    def _rank(self) -> None:
        if not self._kinds:
            self._end(None)
            return
        job = self._parts.ranker.submit(
            UserSequence(self._vectors, self._kinds),
            len(self._kinds),
            self._call.deadline,
            self._ranked,
            self.request.priority,
        )
        self._call.on_cancel(lambda: self._parts.ranker.cancel(job))

    def _ranked(self, result: Vector | SwiftrecError) -> None:
        if isinstance(result, SwiftrecError):
            self._end(result)
            return
        self.user = result
        self.timings.rank_ms = self._lap()
        self._end(None)

    def _lap(self) -> float:
        now = self._parts.clock()
        lap_ms, self._since = 1e3 * (now - self._since), now
        return lap_ms

    def _end(self, error: SwiftrecError | None) -> None:
        self.error = error
        self._call.arrived()


def outcomes(parts: Parts, rankings: Sequence[Ranking]) -> list[Recommendation | SwiftrecError]:
    """The last step, once everything has arrived: search the catalogue for all users, or tell the errors.

    An entry of a list says of this step how long it took for the whole list, since that is what it waited for.
    """
    started = parts.clock()
    places = [n for n, ranking in enumerate(rankings) if ranking.error is None and ranking.user is not None]
    found = parts.catalogue.search_many(
        [user for n in places if (user := rankings[n].user) is not None],
        [rankings[n].allowed for n in places],
        [rankings[n].request.top_k for n in places],
    )
    best = dict(zip(places, found, strict=True))
    for n, ranking in enumerate(rankings):
        if ranking.error is None and n not in best:
            best[n] = parts.catalogue.popular(ranking.allowed, ranking.request.top_k)
    seconds = parts.clock() - started
    return [ranking.error or ranking.answer(best[n], seconds) for n, ranking in enumerate(rankings)]
