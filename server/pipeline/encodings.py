"""Vectors of texts: from the cache, from a job in flight for the same tokens, or from a job of their own."""

from __future__ import annotations

import threading
from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from server.batching.batcher import Batcher
from server.batching.job import Job
from server.errors import SwiftrecError

Vector = NDArray[np.float32]
Done = Callable[[Vector | SwiftrecError], None]

_ENTRY_BYTES = 360  # of an entry beside its key and its numbers: the objects and the dictionary's share


class CacheWatcher(Protocol):
    """Hears where vectors come from."""

    def looked_up(self, where: str, /) -> None:
        """`where` is "hit" (cache), "joined" (a job in flight) or "miss"."""


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


class _Flight:
    """A job in flight and everyone who waits for it."""

    __slots__ = ("job", "waiters")

    def __init__(self) -> None:
        self.job: Job[Sequence[int], Vector] | None = None
        self.waiters: list[Done] = []


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

    def submit(self, ids: Sequence[int], deadline: float, priority: int, done: Done) -> Callable[[], None] | None:
        """Have `ids` encoded; `done` is called once with the vector or the error, maybe before this returns.

        Returns:
            What takes the wish back, after which `done` may never be called; None if it is fulfilled already.

        Raises:
            DeadlineExceeded, Overloaded, ShuttingDown: as `Batcher.submit`.
        """
        key = array("I", ids).tobytes()
        with self._lock:
            vector = self._cache.get(key)
            where = "hit" if vector is not None else self._fly(key, ids, deadline, priority, done)
        if self._watcher:
            self._watcher.looked_up(where)
        if vector is None:
            return lambda: self._take_back(key, done)
        done(vector)
        return None

    def _fly(self, key: bytes, ids: Sequence[int], deadline: float, priority: int, done: Done) -> str:
        flight = self._flights.get(key)
        if flight is not None and flight.job is not None and self._batcher.extend(flight.job, deadline, priority):
            flight.waiters.append(done)
            return "joined"
        flight = _Flight()
        flight.waiters.append(done)
        flight.job = self._batcher.submit(
            ids, len(ids), deadline, lambda result: self._land(key, flight, result), priority
        )
        self._flights[key] = flight
        return "miss"

    def _land(self, key: bytes, flight: _Flight, result: Vector | SwiftrecError) -> None:
        with self._lock:
            if self._flights.get(key) is flight:
                del self._flights[key]
            if not isinstance(result, SwiftrecError):
                self._cache.put(key, result)
            waiters = flight.waiters
            flight.waiters = []
        for done in waiters:
            done(result)

    def _take_back(self, key: bytes, done: Done) -> None:
        with self._lock:
            flight = self._flights.get(key)
            if flight is None or done not in flight.waiters:
                return
            flight.waiters.remove(done)
            if not flight.waiters and flight.job is not None and self._batcher.cancel(flight.job):
                del self._flights[key]


def _size(key: bytes, vector: Vector) -> int:
    return len(key) + vector.nbytes + _ENTRY_BYTES
