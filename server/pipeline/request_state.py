"""What the pipeline knows of the requests of a batch. Each stage fills in its part; an error stays with its request."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from swiftrec.server.catalogue.blend import Aim, Known
from swiftrec.server.catalogue.catalogue import Ranked
from swiftrec.server.catalogue.exact import Allowed
from swiftrec.server.catalogue.history import Event, History
from swiftrec.server.domain import Request, Timings
from swiftrec.server.errors import SwiftrecError
from swiftrec.server.models.networks import Kind, UserSequence

Vector: TypeAlias = "NDArray[np.float32]"


class Input(NamedTuple):
    """One entry of what the ranker reads: the kind of event, the ranker's half of its vector, and the sentence half."""

    kind: Kind
    vector: Vector
    sentence: Vector


class Call(Protocol):
    """The call that a request belongs to."""

    @property
    def is_cancelled(self) -> bool:
        """Whether the client has gone, or the deadline has passed."""


class _Live:
    is_cancelled = False


_LIVE = _Live()


class TextState:
    """Texts that are to be encoded.

    Args:
        tokens: ids of each text.

    Attributes:
        call: loops over requests pass over those whose call is cancelled.
        arrival, started: when the call was admitted and when its step began, on the clock.
        tokens: of the texts that have to be encoded.
        cost_s: predicted time of its share of a step.
        batch_s: predicted time of the batches of models that it needs, before their first rows.
        keys: of the cache, one for each text.
        rows: token ids of each text.
        vectors: of each text, both halves; None while it is not encoded.
        error: what the request met; then its other results count for nothing.
        timings: of the stages so far, waiting included.
        compute_s: time of the batches of models that it was part of.
        was_cached: whether every vector came from the cache.
    """

    __slots__ = (
        *("arrival", "batch_s", "call", "compute_s", "cost_s", "error", "keys", "rows", "started", "timings", "tokens"),
        *("vectors", "was_cached"),
    )

    def __init__(self, tokens: Sequence[Sequence[int]]) -> None:
        self.call: Call = _LIVE
        self.arrival = self.started = self.cost_s = self.batch_s = 0.0
        self.tokens = 0
        self.timings = Timings()
        self.rows = [array("I", ids) for ids in tokens]  # a batch copies it without Python's ints
        self.keys = [row.tobytes() for row in self.rows]
        self.restart()

    @property
    def response_work(self) -> int:
        """What its response costs, in items: writing and sending a response is worth ten of them."""
        return 10

    def restart(self) -> None:
        """Forget what stages found, so that they can run again."""
        self.vectors: list[Vector | None] = [None] * len(self.rows)
        self.error: SwiftrecError | None = None
        self.compute_s, self.was_cached = 0.0, False


class RequestState(TextState):
    """A recommendation; the query is the last of its texts.

    Attributes:
        request: what is asked for.
        history: its events.
        event_count: what the ranker reads: events, and the query.
        unknown_item_ids: ids of its history that no item has.
        unknown_filter_values: values of its filter that no item has.
        filter_work: what resolving its filter costs, in words (`Catalogue.filter_work`).
        inputs: what the ranker reads, oldest first and the query last.
        aim: what other parts than the ranker say.
        user: what items are compared with [width]; None where nothing is known of the user.
        allowed: the items that may be recommended.
        items: the answer, best first, with scores; None while it is not found.
    """

    __slots__ = (
        *("aim", "allowed", "event_count", "filter_work", "history", "inputs", "items", "request"),
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
        """Forget what stages found, so that they can run again."""
        super().restart()
        self.history.restart()
        self.inputs: list[Input] = []
        self.aim: Aim | None = None
        self.user: Vector | None = None
        self.allowed: Allowed | None = None
        self.items: Ranked | None = None

    @property
    def response_work(self) -> int:
        """What its response costs, in items."""
        return super().response_work + self.request.top_k

    def sequence(self) -> UserSequence:
        """What the ranker reads."""
        return UserSequence([one.vector for one in self.inputs], [one.kind for one in self.inputs])

    @property
    def item_events(self) -> list[Event]:
        """The events that the ranker reads and that are items."""
        return [event for event in self.history.read if event.position is not None]

    def known(self, sentence_width: int) -> Known:
        """What parts beside the ranker read."""
        has_query = bool(self.request.query)
        events = self.inputs[:-1] if has_query else self.inputs
        return Known(
            events=len(events),
            items=np.array([event.position for event in self.item_events], dtype=np.int64),
            sentences=np.array([event.sentence for event in events], dtype=np.float32).reshape(
                len(events), sentence_width
            ),
            query=self.request.query,
            query_sentence=self.inputs[-1].sentence if has_query else None,
        )
