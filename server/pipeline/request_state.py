"""The state of requests in the pipeline. Each stage sets its part; an error affects only its request."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from swiftrec.server.arrays import Vector
from swiftrec.server.catalogue.blend import ScoreTerms, ScoringInput
from swiftrec.server.catalogue.catalogue import ScoredItems
from swiftrec.server.catalogue.exact import CandidateSet
from swiftrec.server.catalogue.history import Event, History
from swiftrec.server.domain import Request, Timings
from swiftrec.server.errors import SwiftrecError
from swiftrec.server.models.networks import EventKind, UserSequence


class Input(NamedTuple):
    """One input of the ranker: the kind of event, and both halves of its vector."""

    kind: EventKind
    vector: Vector
    sentence: Vector


class Cancellable(Protocol):
    """The call that a request belongs to."""

    @property
    def is_cancelled(self) -> bool:
        """Whether the client has disconnected or cancelled, or the deadline has passed."""


class _Live:
    is_cancelled = False


_LIVE = _Live()


class TextState:
    """Texts to encode.

    Args:
        tokens: ids of each text.

    Attributes:
        call: stages skip requests whose call is cancelled.
        arrival, started: when the call was admitted and when its step began, on the clock.
        tokens: number of tokens that have to be encoded.
        cost_s: predicted time of its share of a step.
        batch_s: predicted fixed time of the batches of models that it needs.
        keys: cache keys, one for each text.
        rows: token ids of each text.
        vectors: of each text, both halves; None until it is encoded.
        error: why the request failed; then its other results are invalid.
        timings: of the stages so far, waiting included.
        compute_s: time of the batches of models that it was part of.
        was_cached: whether all vectors came from the cache.
    """

    __slots__ = (
        *("arrival", "batch_s", "call", "compute_s", "cost_s", "error", "keys", "rows", "started", "timings", "tokens"),
        *("vectors", "was_cached"),
    )

    def __init__(self, tokens: Sequence[Sequence[int]]) -> None:
        self.call: Cancellable = _LIVE
        self.arrival = self.started = self.cost_s = self.batch_s = 0.0
        self.tokens = 0
        self.timings = Timings()
        self.rows = [array("I", ids) for ids in tokens]  # copied to a batch without Python integers
        self.keys = [row.tobytes() for row in self.rows]
        self.restart()

    @property
    def response_work(self) -> int:
        """The cost of its response, in items: writing and sending a response costs as much as ten items."""
        return 10

    def restart(self) -> None:
        """Reset the results of all stages, so that they can run again."""
        self.vectors: list[Vector | None] = [None] * len(self.rows)
        self.error: SwiftrecError | None = None
        self.compute_s, self.was_cached = 0.0, False


class RequestState(TextState):
    """A recommendation; the query is the last of its texts.

    Attributes:
        request: the validated request.
        history: its events.
        event_count: number of inputs of the ranker: events and the query.
        unknown_item_ids: ids in its history that no item has.
        unknown_filter_values: values in its filter that no item has.
        filter_work: cost of resolving its filter, in words (`Catalogue.filter_work`).
        inputs: of the ranker, oldest first and the query last.
        terms: the other terms of the score.
        user: the vector that items are compared with [width]; None without events and query.
        allowed: the items that may be recommended.
        items: the ranking, best first, with scores; None until it is made.
    """

    __slots__ = (
        *("terms", "allowed", "event_count", "filter_work", "history", "inputs", "items", "request"),
        *("unknown_filter_values", "unknown_item_ids", "user"),
    )

    def __init__(self, request: Request, history: History, tokens: Sequence[Sequence[int]]) -> None:
        self.request, self.history = request, history
        self.event_count = len(history.read) + bool(request.query)
        self.unknown_item_ids: list[str] = []
        self.filter_work = 0.0
        self.unknown_filter_values: Sequence[str] = ()
        super().__init__(tokens)

    def restart(self) -> None:
        """Reset the results of all stages, so that they can run again."""
        super().restart()
        self.history.restart()
        self.inputs: list[Input] = []
        self.terms: ScoreTerms | None = None
        self.user: Vector | None = None
        self.allowed: CandidateSet | None = None
        self.items: ScoredItems | None = None

    @property
    def response_work(self) -> int:
        """The cost of its response, in items."""
        return super().response_work + self.request.top_k

    def sequence(self) -> UserSequence:
        """The input of the ranker."""
        return UserSequence([event.vector for event in self.inputs], [event.kind for event in self.inputs])

    @property
    def item_events(self) -> list[Event]:
        """The events read by the ranker that are items."""
        return [event for event in self.history.read if event.position is not None]

    def scoring_input(self, sentence_width: int) -> ScoringInput:
        """The input of the other parts of the score."""
        has_query = bool(self.request.query)
        events = self.inputs[:-1] if has_query else self.inputs
        return ScoringInput(
            events=len(events),
            items=np.array([event.position for event in self.item_events], dtype=np.int64),
            sentences=np.array([event.sentence for event in events], dtype=np.float32).reshape(
                len(events), sentence_width
            ),
            query=self.request.query,
            query_sentence=self.inputs[-1].sentence if has_query else None,
        )
