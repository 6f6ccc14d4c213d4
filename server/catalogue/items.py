"""The table of items: maps `items.jsonl`, and decodes items when they are read."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Sequence
from functools import lru_cache
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import overload

from swiftrec.server.domain import Item
from swiftrec.server.errors import BundleError

ITEMS = "items.jsonl"
MAX_DECODED_ITEMS = 16_384  # decoded items in the cache


class ItemTable(Sequence[Item]):
    """Items mapped from disk: as Python objects, a million items would take four times the memory.

    Args:
        data: lines of JSON, one item each, decoded on access; an invalid line raises ValueError or TypeError then.
    """

    def __init__(self, data: bytes | mmap) -> None:
        self._data, self._starts = data, array("q")
        start = 0
        while start < len(data):
            end = data.find(b"\n", start)
            end = len(data) if end < 0 else end
            self._starts.append(start)
            start = end + 1
        self._starts.append(start)
        self.at = lru_cache(MAX_DECODED_ITEMS)(self._decode)  # the item at a position, which must not be negative

    @classmethod
    def load(cls, folder: Path) -> ItemTable:
        """Map `items.jsonl`.

        Raises:
            BundleError: it cannot be read.
        """
        try:
            with (folder / ITEMS).open("rb") as file:
                return cls(mmap(file.fileno(), 0, access=ACCESS_READ))
        except (OSError, ValueError) as error:  # ValueError: the file is empty
            raise BundleError(f"{folder / ITEMS}: not a table of items ({error}): export it again") from None

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, index: int) -> Item: ...

    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...

    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        positions = range(len(self))[index]
        return self.at(positions) if isinstance(positions, int) else [self.at(position) for position in positions]

    def __iter__(self) -> Iterator[Item]:
        """All items, without caching them."""
        return map(self._decode, range(len(self)))

    def _decode(self, position: int) -> Item:
        return Item(**json.loads(self._data[self._starts[position] : self._starts[position + 1]]))
