"""From texts and item ids to ranked items: tokenise, encode, rank, retrieve.

A list goes through each step together, so that its texts share batches; an error stays with its own entry.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from server.catalogue.catalogue import Catalogue, Mask
from server.errors import Cancelled, DeadlineExceeded, SwiftrecError
from server.models.ranker import Kind, UserSequence
from server.pipeline.domain import Call, ItemEvent, Recommendation, Request, Strategy, Timings

Vector = NDArray[np.float32]
P_contra = TypeVar("P_contra", contravariant=True)


class Queue(Protocol[P_contra]):
    """Where work is handed in: a batcher."""

    def submit(self, payload: P_contra, tokens: int, deadline: float, /) -> Future[Vector]:
        """Queue a job."""


class Texts(Protocol):
    """What turns texts into token ids: a tokenizer."""

    def encode(self, texts: Sequence[str], /) -> list[list[int]]:
        """Token ids of each text."""


@dataclass(slots=True)
class _Entry:
    """One request on its way."""

    request: Request
    mask: Mask
    ignored: list[str]
    vectors: list[Vector | Future[Vector]]
    kinds: list[Kind]
    timings: Timings = field(default_factory=Timings)
    user: Future[Vector] | None = None


class Recommender:
    """The pipeline of one bundle."""

    def __init__(
        self,
        tokenizer: Texts,
        encoder: Queue[list[int]],
        ranker: Queue[UserSequence],
        catalogue: Catalogue,
        max_history: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tokenizer, self._encoder, self._ranker = tokenizer, encoder, ranker
        self._catalogue, self._max_history, self._clock = catalogue, max_history, clock

    def encode(self, texts: Sequence[str], call: Call) -> NDArray[np.float32]:
        """Unit vectors of the texts, float32 [texts, dimensions]."""
        futures = self._encode(texts, call)
        return np.array([self._wait(future, call) for future in futures])

    def recommend(self, request: Request, call: Call) -> Recommendation:
        """Answer one request."""
        result = self.recommend_many([request], call)[0]
        if isinstance(result, SwiftrecError):
            raise result
        return result

    def recommend_many(self, requests: Sequence[Request], call: Call) -> list[Recommendation | SwiftrecError]:
        """Answer each request, with a ranking or with the error that it met."""
        started = self._clock()
        entries = [_guard(self._start, request, call) for request in requests]
        ranked = [_then(self._rank, entry, call) for entry in entries]
        answers = [_then(self._finish, entry, call) for entry in ranked]
        for answer in answers:
            if isinstance(answer, Recommendation):
                answer.timings.total_ms = 1e3 * (self._clock() - started)
        return answers

    def _start(self, request: Request, call: Call) -> _Entry:
        """Look up items, queue texts."""
        seen = [e.item_id for e in request.history if isinstance(e, ItemEvent)] if request.exclude_history else []
        entry = _Entry(request, self._catalogue.mask(request.conditions, seen), [], [], [])
        texts: list[str] = []
        places: list[int] = []
        events: list[tuple[Kind, Vector | str]] = []
        for event in request.history:
            if isinstance(event, ItemEvent):
                vector = self._catalogue.vector(event.item_id)
                if vector is None:
                    entry.ignored.append(event.item_id)
                else:
                    events.append((Kind.ITEM, vector))
            else:
                events.append((Kind.TEXT, event.text))
        events = events[-self._max_history :]
        if request.query:
            events.append((Kind.QUERY, request.query))
        for kind, what in events:
            entry.kinds.append(kind)
            if isinstance(what, str):
                places.append(len(entry.vectors))
                texts.append(what)
            entry.vectors.append(np.empty(0, np.float32) if isinstance(what, str) else what)
        if texts:
            for place, future in zip(places, self._encode(texts, call, entry.timings), strict=True):
                entry.vectors[place] = future
        return entry

    def _encode(self, texts: Sequence[str], call: Call, timings: Timings | None = None) -> list[Future[Vector]]:
        started = self._clock()
        rows = self._tokenizer.encode(texts)
        if timings:
            timings.tokenise_ms = 1e3 * (self._clock() - started)
        futures = []
        for row in rows:
            future = self._encoder.submit(row, len(row), call.deadline)
            call.track(future)
            futures.append(future)
        return futures

    def _rank(self, entry: _Entry, call: Call) -> _Entry:
        """Wait for the texts, queue the sequence."""
        if not entry.kinds:
            return entry
        started = self._clock()
        vectors = [self._wait(v, call) if isinstance(v, Future) else v for v in entry.vectors]
        entry.timings.encode_ms = 1e3 * (self._clock() - started)
        entry.user = self._ranker.submit(UserSequence(vectors, entry.kinds), len(vectors), call.deadline)
        call.track(entry.user)
        return entry

    def _finish(self, entry: _Entry, call: Call) -> Recommendation:
        """Wait for the user vector, search."""
        started = self._clock()
        user = self._wait(entry.user, call) if entry.user else None
        ranked = self._clock()
        k = entry.request.top_k
        if user is None:
            items, strategy = self._catalogue.popular(entry.mask, k), Strategy.POPULARITY
        else:
            items, strategy = self._catalogue.search(user, entry.mask, k), Strategy.MODEL
        entry.timings.rank_ms = 1e3 * (ranked - started)
        entry.timings.retrieve_ms = 1e3 * (self._clock() - ranked)
        used = len(entry.kinds) - bool(entry.request.query)
        return Recommendation(items, entry.ignored, strategy, used, entry.timings)

    def _wait(self, future: Future[Vector], call: Call) -> Vector:
        try:
            return future.result(timeout=max(0.0, call.deadline - self._clock()))
        except TimeoutError:
            call.cancel()
            raise DeadlineExceeded("the deadline passed before the answer was ready") from None
        except CancelledError:
            raise Cancelled("the caller has gone") from None


A = TypeVar("A")
B = TypeVar("B")


def _guard(step: Callable[[A, Call], B], value: A, call: Call) -> B | SwiftrecError:
    try:
        return step(value, call)
    except SwiftrecError as error:
        return error


def _then(step: Callable[[A, Call], B], value: A | SwiftrecError, call: Call) -> B | SwiftrecError:
    return value if isinstance(value, SwiftrecError) else _guard(step, value, call)
