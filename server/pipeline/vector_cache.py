"""The vectors of texts that were used last."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]
_ENTRY_BYTES = 360  # of an entry beside its key and its numbers: the objects and the dictionary's share


class VectorCache:
    """Bounded in bytes; what was used longest ago makes room. One thread only.

    Args:
        capacity_bytes: 0 turns it off.

    Attributes:
        size_bytes: of what it holds.
    """

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
        """Keep a copy: a row would hold its whole batch in memory."""
        size = _size(key, vector)
        if size > self._capacity or key in self._entries:
            return
        self._entries[key] = vector.copy()
        self.size_bytes += size
        while self.size_bytes > self._capacity:
            old_key, old = self._entries.popitem(last=False)
            self.size_bytes -= _size(old_key, old)


def _size(key: bytes, vector: Vector) -> int:
    return len(key) + vector.nbytes + _ENTRY_BYTES
