"""An LRU cache with a limit in bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class LruCache(Generic[K, V]):
    """The most recently used values. Threads may share it.

    Args:
        capacity_bytes: limit of all entries; larger entries are not stored, so 0 turns the cache off.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes
        self._lock = threading.Lock()
        self._entries: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._size_bytes = 0

    @property
    def size_bytes(self) -> int:
        """Total size of all entries."""
        return self._size_bytes

    def __contains__(self, key: K) -> bool:
        """Whether the key has a value; does not count as a use."""
        return key in self._entries

    def get(self, key: K) -> V | None:
        """The value, which becomes the most recently used, or None."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            self._entries.move_to_end(key)
            return entry[0]

    def put(self, key: K, value: V, size_bytes: int) -> None:
        """Store a value of `size_bytes` (including its key) and evict others until all fit; never overwrites a key."""
        with self._lock:
            if size_bytes > self._capacity_bytes or key in self._entries:
                return
            self._entries[key] = value, size_bytes
            self._size_bytes += size_bytes
            while self._size_bytes > self._capacity_bytes:
                _, (_, dropped_bytes) = self._entries.popitem(last=False)
                self._size_bytes -= dropped_bytes
