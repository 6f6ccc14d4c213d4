"""The requests of a list on their way to ranked items. They take each step together; an error stays with its entry."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from server.batching.job import Job
from server.catalogue.blend import Aim, Known
from server.catalogue.catalogue import TOGETHER, Ranked
from server.catalogue.filters import Allowed
from server.errors import ModelFailed, SwiftrecError
from server.models.encoder import ranker_half, sentence_half
from server.models.ranker import Kind, UserSequence
from server.pipeline.call import Call
from server.pipeline.domain import ItemEvent, Recommendation, Request, Strategy, TextEvent, Timings
from server.pipeline.steps import NO_VECTOR, Encoding, Parts
from server.pipeline.wanted import Found, Wanted
from server.telemetry.statistics import ModelTime

Vector = NDArray[np.float32]
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Event:
    """An event, or the query, that the ranker reads.

    Args:
        kind: what its vector stands for.
        text: what is to be encoded; empty for items.
        place: in the request's history; -1 for the query.
        position: of the item that it is; None for texts that are none.
        vector: the ranker's half [dimensions].
        sentence: the sentence vector.
    """

    kind: Kind
    text: str
    place: int
    position: int | None = None
    vector: Vector = field(default_factory=lambda: NO_VECTOR)
    sentence: Vector = field(default_factory=lambda: NO_VECTOR)


class Entry:
    """One request.

    Attributes:
        request: what is asked.
        allowed: the items that may be answered.
        ignored: ids of its history that no item has.
        resolved: its text events that are items: their place in the history and the item's position.
        unknown_filter_values: values of its filter that no item has.
        events: its last events and its query, oldest first.
        texts: of these, to be encoded.
        aim: what other parts than the ranker say, once every text is encoded.
        found: what items are compared with, once it is there, and maybe the items; None where nothing is known of the
            user.
        time: how long it waited for batches and these ran.
        error: what it met.
    """

    __slots__ = (
        *("_seen", "aim", "allowed", "error", "events", "found", "ignored", "request", "resolved", "texts", "time"),
        "unknown_filter_values",
    )

    allowed: Allowed
    aim: Aim

    def __init__(self, request: Request) -> None:
        self.request = request
        self.ignored: list[str] = []
        self.resolved: list[tuple[int, int]] = []
        self.unknown_filter_values: Sequence[str] = ()
        self.events: list[Event] = []
        self.texts: list[str] = []
        self._seen: list[int] = []
        self.found: Found | None = None
        self.time = ModelTime()
        self.error: SwiftrecError | None = None

    def look_up(self, parts: Parts) -> None:
        """Look up items, check the filter, collect texts."""
        events = [event for place, one in enumerate(self.request.history) if (event := self._event(place, one, parts))]
        try:
            self.allowed = parts.catalogue.mask(self.request.conditions, self._left_out(parts))
        except SwiftrecError as error:
            self.error = error
            return
        self.unknown_filter_values = parts.catalogue.unknown_values(self.request.conditions)
        self.events = events[-parts.max_history :]
        if self.request.query:
            self.events.append(Event(Kind.QUERY, self.request.query, -1))
        self.texts = [event.text for event in self.events if event.text]

    def fill(self, vectors: list[Vector] | SwiftrecError, parts: Parts) -> None:
        """The vectors of its texts, or the error that they met; then what the other parts say."""
        if isinstance(vectors, SwiftrecError):
            self.error = vectors
            return
        if self.error:
            return
        encoded, seen = [event for event in self.events if event.text], len(self._seen)
        for event, vector in zip(encoded, vectors, strict=True):
            event.vector = ranker_half(vector, parts.catalogue.dimensions)
            event.sentence = sentence_half(vector, parts.catalogue.dimensions)
            if event.kind == Kind.TEXT:
                self._resolve(event, parts.names.by_meaning(event.text, event.sentence), parts)
        if len(self._seen) > seen:
            self.allowed = parts.catalogue.mask(self.request.conditions, self._left_out(parts))
        if self.events:
            self.aim = parts.scoring.aim(self._known(parts.catalogue.sentences.shape[1]))

    def sequence(self) -> UserSequence:
        """What the ranker reads."""
        return UserSequence([event.vector for event in self.events], [event.kind for event in self.events])

    def _event(self, place: int, event: ItemEvent | TextEvent, parts: Parts) -> Event | None:
        """As the ranker reads it; None for an unknown item."""
        if isinstance(event, TextEvent):
            found = Event(Kind.TEXT, event.text, place)
            self._resolve(found, parts.names.by_name(event.text), parts)
            return found
        position = parts.catalogue.position(event.item_id)
        if position is None:
            self.ignored.append(event.item_id)
            return None
        found = Event(Kind.ITEM, "", place)
        self._be(found, position, parts)
        return found

    def _resolve(self, event: Event, position: int | None, parts: Parts) -> None:
        if position is not None:
            self.resolved.append((event.place, position))
            self._be(event, position, parts)

    def _be(self, event: Event, position: int, parts: Parts) -> None:
        """Make it the event of this item."""
        self._seen.append(position)
        event.kind, event.text, event.position = Kind.ITEM, "", position
        event.vector, event.sentence = parts.catalogue.event_vector(position), parts.catalogue.sentences[position]

    def _left_out(self, parts: Parts) -> list[int]:
        """Items of the history where they may not be recommended again."""
        wanted = self.request.exclude_history
        return self._seen if (parts.exclude_history if wanted is None else wanted) else []

    def _known(self, width: int) -> Known:
        """What parts beside the ranker read; sentence vectors have `width` entries."""
        has_query = bool(self.request.query)
        events = self.events[:-1] if has_query else self.events
        return Known(
            events=len(events),
            items=np.array([event.position for event in events if event.position is not None], dtype=np.int64),
            sentences=np.array([event.sentence for event in events], dtype=np.float32).reshape(len(events), width),
            query=self.request.query,
            query_sentence=self.events[-1].sentence if has_query else None,
        )


class Rankings:
    """The entries of one call. The call is told when all have their user's vector or an error.

    Args:
        parts: what to work with.
        requests: one or more.
        call: whose work this is; it expects one answer.

    Attributes:
        entries: one for each request.
        timings: of the steps so far. What an entry says of a step is how long it took for all, since it waited for all.
    """

    def __init__(self, parts: Parts, requests: Sequence[Request], call: Call) -> None:
        self._parts, self._call = parts, call
        self.entries = [Entry(request) for request in requests]
        self.timings = Timings()
        self._lock = threading.Lock()
        self._missing, self._scored_ms = 0, 0.0
        self._jobs: list[tuple[Entry, Job[Wanted, Found]]] = []  # while they are ranked
        self._started = self._since = parts.clock()

    def start(self) -> None:
        """Look up items, queue texts."""
        for entry in self.entries:
            entry.look_up(self._parts)
        texts, priorities = [e.texts for e in self.entries], [e.request.priority for e in self.entries]
        self._encoding = Encoding(self._parts, texts, priorities, self._call, self._encoded)
        self._encoding.start()

    def outcomes(self) -> list[Recommendation | SwiftrecError]:
        """The last step, once all have arrived: search for those who are not found yet, or tell the errors."""
        started = self._parts.clock()
        self._search([entry for entry in self.entries if entry.found is not None and entry.found.items is None])
        items = [self._items(entry) for entry in self.entries]
        ended = self._parts.clock()
        self.timings.retrieve_ms += 1e3 * (ended - started)
        self.timings.total_ms = 1e3 * (ended - self._started)
        return [entry.error or self._answer(entry, some) for entry, some in zip(self.entries, items, strict=True)]

    def _search(self, entries: Sequence[Entry]) -> None:
        known = [(entry, entry.found) for entry in entries if entry.found is not None]
        every = self._parts.catalogue.search_many(
            [found.user for _, found in known],
            [entry.allowed for entry, _ in known],
            [entry.request.top_k for entry, _ in known],
            [entry.aim.boosts for entry, _ in known],
        )
        for (entry, found), items in zip(known, every, strict=True):
            entry.found = found._replace(items=items)

    def _items(self, entry: Entry) -> Ranked:
        if entry.found is not None:
            return entry.found.items or []
        return [] if entry.error else self._parts.catalogue.popular(entry.allowed, entry.request.top_k)

    def _answer(self, entry: Entry, items: Ranked) -> Recommendation:
        strategy = Strategy.POPULARITY if entry.found is None else Strategy.MODEL
        used = len(entry.events) - bool(entry.request.query)
        resolved = [(place, self._parts.catalogue.items[position].id) for place, position in sorted(entry.resolved)]
        return Recommendation(
            items, entry.ignored, strategy, used, self._steps(entry), entry.unknown_filter_values, resolved
        )

    def _steps(self, entry: Entry) -> Timings:
        """Those that the entry came by."""
        of = self.timings
        tokenise_ms, encode_ms = (of.tokenise_ms, of.encode_ms) if entry.texts else (0.0, 0.0)
        return Timings(tokenise_ms, encode_ms, of.rank_ms if entry.events else 0.0, of.retrieve_ms, of.total_ms)

    def _encoded(self) -> None:
        encoding = self._encoding
        del self._encoding  # which holds this
        lap_ms = self._lap()
        for entry, vectors, time in zip(self.entries, encoding.results, encoding.times, strict=True):
            try:
                entry.fill(vectors, self._parts)
            except Exception:  # noqa: BLE001 (it concerns this entry only, and the thread is the batcher's)
                _log.exception("a request could not be scored")
                entry.error = ModelFailed("the request could not be scored")
            entry.time = time
        self._scored_ms = self._lap()
        if any(entry.texts for entry in self.entries):
            self.timings.tokenise_ms = 1e3 * encoding.tokenise_s
            self.timings.encode_ms = lap_ms - self.timings.tokenise_ms
        entries = [entry for entry in self.entries if entry.events and not entry.error and not entry.aim.is_silent]
        if entries:
            self._rank(entries)
        else:
            self._call.arrived()

    def _rank(self, entries: Sequence[Entry]) -> None:
        if self._call.is_cancelled:
            return
        self._missing = len(entries)
        is_list = len(entries) >= TOGETHER  # which is searched for together at its end, better than a batch at a time
        jobs: list[Job[Wanted, Found]] = [
            Job(
                Wanted(entry.sequence(), entry.aim, entry.allowed, 0 if is_list else entry.request.top_k),
                len(entry.events),
                entry.request.priority,
                self._call.deadline,
                partial(self._ranked, entry),
            )
            for entry in entries
        ]
        self._jobs = list(zip(entries, jobs, strict=True))
        for entry, refusal in zip(entries, self._parts.ranker.submit_many(jobs), strict=True):
            if refusal:
                self._ranked(entry, refusal)
        self._call.on_cancel(self._take_back)

    def _take_back(self) -> None:
        jobs, self._jobs = self._jobs, []
        for _, job in jobs:
            self._parts.ranker.cancel(job)

    def _ranked(self, entry: Entry, result: Found | SwiftrecError) -> None:
        if isinstance(result, SwiftrecError):
            entry.error = result
        else:
            entry.found = result
        with self._lock:
            self._missing -= 1
            if self._missing:
                return
        self._note_rank()
        for entry, job in self._jobs:
            if job.run:
                entry.time.add(job.arrival, job.run.started, job.run.ended)
        self._jobs = []  # they hold this object: without the cycle it is freed without the garbage collector
        self._call.arrived()

    def _note_rank(self) -> None:
        """Retrieving is the search with the batch (of a list, that of its slowest batch) and what other parts took."""
        search_ms = 1e3 * max((entry.found.search_s for entry in self.entries if entry.found), default=0.0)
        self.timings.rank_ms = self._lap() - search_ms
        self.timings.retrieve_ms = search_ms + self._scored_ms

    def _lap(self) -> float:
        now = self._parts.clock()
        lap_ms, self._since = 1e3 * (now - self._since), now
        return lap_ms
