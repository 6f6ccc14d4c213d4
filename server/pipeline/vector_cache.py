"""A cache of the vectors of recently used texts."""

from __future__ import annotations

from swiftrec.server.arrays import Vector
from swiftrec.server.catalogue.lru import LruCache

_ENTRY_BYTES = 360  # overhead of an entry: the objects and its share of the dictionary


class VectorCache:
    """An LRU cache with a limit in bytes.

    Args:
        capacity_bytes: 0 turns it off.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self._vectors: LruCache[bytes, Vector] = LruCache(capacity_bytes)

    @property
    def size_bytes(self) -> int:
        """Size of all entries."""
        return self._vectors.size_bytes

    def get(self, key: bytes) -> Vector | None:
        """The vector, which becomes the most recently used; None if it is not cached."""
        return self._vectors.get(key)

    def put(self, key: bytes, vector: Vector) -> None:
        """Store a copy, since a row would keep its whole batch in memory."""
        self._vectors.put(key, vector.copy(), len(key) + vector.nbytes + _ENTRY_BYTES)
