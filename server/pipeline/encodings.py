"""Vectors of texts: from the cache, from a job in flight for the same tokens, or from a job of their own."""

from __future__ import annotations

import threading
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from server.batching.batcher import Batcher
from server.batching.job import Job, Run
from server.errors import SwiftrecError

Vector = NDArray[np.float32]
Done = Callable[[Vector | SwiftrecError], None]

_ENTRY_BYTES = 360  # of an entry beside its key and its numbers: the objects and the dictionary's share


class CacheWatcher(Protocol):
    """Hears where vectors come from."""

    def looked_up(self, where: str, texts: int, /) -> None:
        """So many were found at `where`: "hit" (cache), "joined" (a job in flight) or "miss"."""


class VectorCache:
    """The vectors used last, bounded in bytes. Not thread-safe: its owner locks."""

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity = capacity_bytes
        self._entries: OrderedDict[bytes, Vector] = OrderedDict()
        self.size_bytes = 0

    def get(self, key: bytes) -> Vector | None:
        """The vector, which now counts as used last."""
        vector = self._entries.get(key)
        if vector is not None:
            self._entries.move_to_end(key)
        return vector

    def put(self, key: bytes, vector: Vector) -> None:
        """Keep a copy (a row would hold its whole batch in memory); what was used longest ago makes room."""
        size = _size(key, vector)
        if size > self._capacity or key in self._entries:
            return
        self._entries[key] = vector.copy()
        self.size_bytes += size
        while self.size_bytes > self._capacity:
            old_key, old = self._entries.popitem(last=False)
            self.size_bytes -= _size(old_key, old)


class Wish:
    """Somebody who wants the vector of a text.

    Args:
        ids: of its tokens.
        priority: 1 (most urgent) to 9.
        done: called once with the vector or the error, unless the wish is taken back.

    Attributes:
        run: the batch that made the vector, set before `done` is called; None if the vector came from the cache.
    """

    __slots__ = ("done", "ids", "key", "priority", "run")

    def __init__(self, ids: Sequence[int], priority: int, done: Done) -> None:
        self.ids = array("I", ids)  # a batch copies it without Python's ints
        self.priority, self.done = priority, done
        self.key = self.ids.tobytes()
        self.run: Run | None = None


class _Flight(NamedTuple):
    """A job in flight and everyone who waits for it."""

    job: Job[Sequence[int], Vector]
    waiters: list[Wish]


class Encodings:
    """One for each bundle, in front of its encode batcher.

    Args:
        batcher: runs the encoder.
        cache_bytes: bound of the cache; 0 turns it off (jobs in flight are shared all the same).
        watcher: hears where vectors come from.
    """

    def __init__(
        self, batcher: Batcher[Sequence[int], Vector], cache_bytes: int, watcher: CacheWatcher | None = None
    ) -> None:
        self._batcher, self._watcher = batcher, watcher
        self._lock = threading.Lock()  # taken before the batcher's, never after
        self._cache = VectorCache(cache_bytes)
        self._flights: dict[bytes, _Flight] = {}

    @property
    def cached_bytes(self) -> int:
        """What the cache holds now."""
        return self._cache.size_bytes

    @property
    def in_flight(self) -> int:
        """Texts that are being encoded now."""
        return len(self._flights)

    def submit(self, wishes: Sequence[Wish], deadline: float) -> None:
        """Have the wishes fulfilled; each meets its own fate, maybe before this returns.

        One is told DeadlineExceeded, Overloaded or ShuttingDown where the batcher refuses its job.
        """
        told: list[tuple[Wish, Vector | SwiftrecError]] = []
        new: dict[bytes, _Flight] = {}
        with self._lock:
            for wish in wishes:
                if (vector := self._cache.get(wish.key)) is not None:
                    told.append((wish, vector))
                elif not self._join(new.get(wish.key) or self._flights.get(wish.key), wish, deadline):
                    new[wish.key] = self._flight(wish, deadline)
            hits = len(told)
            if new:
                told += self._depart(new)
        self._count(hits, len(wishes) - len(told) - len(new), len(new))
        for wish, result in told:
            wish.done(result)

    def take_back(self, wishes: Iterable[Wish]) -> None:
        """They are wished no more: those that are not fulfilled yet may never be; jobs that nobody wants do not run."""
        with self._lock:
            for wish in wishes:
                flight = self._flights.get(wish.key)
                if flight is None or wish not in flight.waiters:
                    continue
                flight.waiters.remove(wish)
                if not flight.waiters and self._batcher.cancel(flight.job):
                    del self._flights[wish.key]

    def _join(self, flight: _Flight | None, wish: Wish, deadline: float) -> bool:
        """Whether the job for the same tokens is this wish's too."""
        if flight is None or not self._batcher.extend(flight.job, deadline, wish.priority):
            return False
        flight.waiters.append(wish)
        return True

    def _flight(self, wish: Wish, deadline: float) -> _Flight:
        waiters = [wish]
        done = partial(self._land, wish.key, waiters)
        return _Flight(Job(wish.ids, len(wish.ids), wish.priority, deadline, done), waiters)

    def _depart(self, new: dict[bytes, _Flight]) -> list[tuple[Wish, SwiftrecError]]:
        """Queue the jobs. What was refused is no more in `new`; returns who has to be told of it."""
        refused = []
        errors = self._batcher.submit_many([flight.job for flight in new.values()])
        for (key, flight), error in zip(list(new.items()), errors, strict=True):
            if error:
                refused += [(wish, error) for wish in new.pop(key).waiters]
            else:
                self._flights[key] = flight
        return refused

    def _count(self, hits: int, joined: int, misses: int) -> None:
        if self._watcher:
            for where, texts in (("hit", hits), ("joined", joined), ("miss", misses)):
                if texts:
                    self._watcher.looked_up(where, texts)

    def _land(self, key: bytes, waiters: list[Wish], result: Vector | SwiftrecError) -> None:
        run: Run | None = None
        with self._lock:
            flight = self._flights.get(key)
            if flight is not None and flight.waiters is waiters:
                run = flight.job.run
                del self._flights[key]
            if not isinstance(result, SwiftrecError):
                self._cache.put(key, result)
            wishes = waiters.copy()
            waiters.clear()  # who is told cannot take his wish back any more
        for wish in wishes:
            wish.run = run
            wish.done(result)


def _size(key: bytes, vector: Vector) -> int:
    return len(key) + vector.nbytes + _ENTRY_BYTES
