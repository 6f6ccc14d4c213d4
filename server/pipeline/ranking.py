"""The requests of a list on their way to ranked items. They take each step together; an error stays with its entry."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from server.batching.job import Job
from server.catalogue.blend import Aim, Known
from server.catalogue.catalogue import TOGETHER, Ranked
from server.catalogue.contributions import Contribution, contributions
from server.catalogue.filters import Allowed
from server.catalogue.history import Event, History
from server.errors import ModelFailed, SwiftrecError
from server.models.encoder import ranker_half, sentence_half
from server.models.ranker import Kind, UserSequence
from server.pipeline.call import Call
from server.pipeline.domain import Recommendation, Request, Strategy, TextEvent, Timings
from server.pipeline.steps import Encoding, Parts
from server.pipeline.wanted import Found, Wanted
from server.telemetry.statistics import ModelTime

Vector = NDArray[np.float32]
_log = logging.getLogger(__name__)


class Input(NamedTuple):
    """One entry of what the ranker reads: the kind of event, the ranker's half of its vector, and the sentence half."""

    kind: Kind
    vector: Vector
    sentence: Vector


class Entry:
    """One request.

    Attributes:
        request: what is asked.
        allowed: the items that may be answered.
        ignored: ids of its history that no item has.
        unknown_filter_values: values of its filter that no item has.
        history: its events.
        texts: those that are to be encoded, the query last.
        inputs: what the ranker reads, oldest first and the query last, once every text is encoded.
        aim: what other parts than the ranker say, then, too.
        found: what items are compared with, once it is there, and maybe the items; None where nothing is known of the
            user.
        time: how long it waited for batches and these ran.
        error: what it met.
    """

    __slots__ = (
        *("aim", "allowed", "error", "found", "history", "ignored", "inputs", "request", "texts", "time"),
        "unknown_filter_values",
    )

    allowed: Allowed
    aim: Aim
    history: History

    def __init__(self, request: Request) -> None:
        self.request = request
        self.ignored: list[str] = []
        self.unknown_filter_values: Sequence[str] = ()
        self.texts: list[str] = []
        self.inputs: list[Input] = []
        self.found: Found | None = None
        self.time = ModelTime()
        self.error: SwiftrecError | None = None

    def look_up(self, parts: Parts) -> None:
        """Look up items, check the filter, collect texts."""
        self.history = History(parts.names, parts.max_history)
        for place, event in enumerate(self.request.history):
            if isinstance(event, TextEvent):
                self.history.add_text(place, event.text)
            elif (position := parts.catalogue.position(event.item_id)) is None:
                self.ignored.append(event.item_id)
            else:
                self.history.add_item(place, position)
        try:
            self.allowed = parts.catalogue.mask(self.request.conditions, self._left_out(parts))
        except SwiftrecError as error:
            self.error = error
            return
        self.unknown_filter_values = parts.catalogue.unknown_values(self.request.conditions)
        self.texts = [event.text for event in self.history.read if event.position is None]
        if self.request.query:
            self.texts.append(self.request.query)

    def fill(self, vectors: list[Vector] | SwiftrecError, parts: Parts, call: Call) -> None:
        """The vectors of its texts, or the error that they met; then what the other parts say.

        It stops between two texts if nobody waits for the call any more.
        """
        if isinstance(vectors, SwiftrecError):
            self.error = vectors
        if isinstance(vectors, SwiftrecError) or self.error:
            return
        encoded, known = iter(vectors), len(self.history.items)
        for event in self.history.read:
            if call.is_cancelled:
                return
            self.inputs.append(self._input(event, encoded, parts))
        if self.request.query:
            self.inputs.append(_of_text(Kind.QUERY, next(encoded), parts))
        if len(self.history.items) > known:
            self.allowed = parts.catalogue.mask(self.request.conditions, self._left_out(parts))
        if self.inputs:
            self.aim = parts.scoring.aim(self.known(parts))

    def sequence(self) -> UserSequence:
        """What the ranker reads."""
        return UserSequence([one.vector for one in self.inputs], [one.kind for one in self.inputs])

    def known(self, parts: Parts) -> Known:
        """What parts beside the ranker read."""
        width, has_query = parts.catalogue.sentences.shape[1], bool(self.request.query)
        events = self.inputs[:-1] if has_query else self.inputs
        return Known(
            events=len(events),
            items=np.array([event.position for event in self._read_items], dtype=np.int64),
            sentences=np.array([event.sentence for event in events], dtype=np.float32).reshape(len(events), width),
            query=self.request.query,
            query_sentence=self.inputs[-1].sentence if has_query else None,
        )

    def contributions(self, parts: Parts) -> list[Contribution]:
        """What each part adds to the scores of the items that were found, in their order; none by popularity alone.

        `Contribution.event` is the place in the request's history.
        """
        if self.found is None or self.found.items is None:
            return []
        places = [event.place for event in self._read_items]
        positions = parts.catalogue.positions([item.id for item, _ in self.found.items])
        found = contributions(parts.scoring, self.known(parts), self.found.user, parts.catalogue, positions)
        return [one if one.event is None else replace(one, event=places[one.event]) for one in found]

    @property
    def _read_items(self) -> list[Event]:
        """The events that the ranker reads and that are items."""
        return [event for event in self.history.read if event.position is not None]

    def _input(self, event: Event, encoded: Iterator[Vector], parts: Parts) -> Input:
        """What the ranker reads of an event; `encoded` has the vectors of those that are no items by name."""
        position = event.position
        if position is None:
            read = _of_text(Kind.TEXT, next(encoded), parts)
            position = self.history.recognise(event, read.sentence)
            if position is None:
                return read
        return Input(Kind.ITEM, parts.catalogue.event_vector(position), parts.catalogue.sentences[position])

    def _left_out(self, parts: Parts) -> list[int]:
        """Items of the history where they may not be recommended again."""
        wanted = self.request.exclude_history
        return self.history.items if (parts.exclude_history if wanted is None else wanted) else []


def _of_text(kind: Kind, vector: Vector, parts: Parts) -> Input:
    dimensions = parts.catalogue.dimensions
    return Input(kind, ranker_half(vector, dimensions), sentence_half(vector, dimensions))


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
        resolved = [(place, self._parts.catalogue.items[position].id) for place, position in entry.history.resolved]
        used = len(entry.history.read)
        return Recommendation(
            items, entry.ignored, strategy, used, self._steps(entry), entry.unknown_filter_values, resolved
        )

    def _steps(self, entry: Entry) -> Timings:
        """Those that the entry came by."""
        of = self.timings
        tokenise_ms, encode_ms = (of.tokenise_ms, of.encode_ms) if entry.texts else (0.0, 0.0)
        return Timings(tokenise_ms, encode_ms, of.rank_ms if entry.inputs else 0.0, of.retrieve_ms, of.total_ms)

    def _encoded(self) -> None:
        encoding = self._encoding
        del self._encoding  # which holds this
        lap_ms = self._lap()
        for entry, vectors, time in zip(self.entries, encoding.results, encoding.times, strict=True):
            if self._call.is_cancelled:
                return
            try:
                entry.fill(vectors, self._parts, self._call)
            except Exception:  # noqa: BLE001 (it concerns this entry only, and the thread is the batcher's)
                _log.exception("a request could not be scored")
                entry.error = ModelFailed("the request could not be scored")
            entry.time = time
        if self._call.is_cancelled:
            return
        self._scored_ms = self._lap()
        if any(entry.texts for entry in self.entries):
            self.timings.tokenise_ms = 1e3 * encoding.tokenise_s
            self.timings.encode_ms = lap_ms - self.timings.tokenise_ms
        entries = [entry for entry in self.entries if entry.inputs and not entry.error and not entry.aim.is_silent]
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
                len(entry.inputs),
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
