"""The vectors of texts that were used last."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from swiftrec.server.catalogue.lru import LruCache

Vector = NDArray[np.float32]
_ENTRY_BYTES = 360  # of an entry beside its key and its numbers: the objects and the dictionary's share


class VectorCache:
    """Bounded in bytes.

    Args:
        capacity_bytes: 0 turns it off.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self._vectors: LruCache[bytes, Vector] = LruCache(capacity_bytes)

    @property
    def size_bytes(self) -> int:
        """Of what it holds."""
        return self._vectors.size_bytes

    def get(self, key: bytes) -> Vector | None:
        """The vector, which now counts as used last."""
        return self._vectors.get(key)

    def put(self, key: bytes, vector: Vector) -> None:
        """Keep a copy: a row would hold its whole batch in memory."""
        self._vectors.put(key, vector.copy(), len(key) + vector.nbytes + _ENTRY_BYTES)
