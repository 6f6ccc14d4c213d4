"""The table of items: the bytes of `items.jsonl`, and an item only when somebody asks for it."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import overload

from swiftrec.server.errors import BundleError

ITEMS = "items.jsonl"
KEPT = 16_384  # items that stay decoded: those that are answered most


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """One item; `popularity` counts its interactions in the data that the bundle was made from.

    Equal only to itself, so that what is made of it can be kept.
    """

    id: str
    title: str
    text: str
    attributes: dict[str, list[str]]
    popularity: float


class ItemTable(Sequence[Item]):
    """A million items as Python objects would take four times the memory of their lines, which are mapped from disk.

    Args:
        data: lines of JSON, one item each, decoded when it is asked for: a bad one raises ValueError or TypeError then.
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
        self.at = lru_cache(KEPT)(self._decode)  # the item at a place, which must not be negative

    @classmethod
    def load(cls, folder: Path) -> ItemTable:
        """Map `items.jsonl`.

        Raises:
            BundleError: it cannot be read.
        """
        try:
            with (folder / ITEMS).open("rb") as file:
                return cls(mmap(file.fileno(), 0, access=ACCESS_READ))
        except (OSError, ValueError) as error:  # a ValueError is what an empty file raises
            raise BundleError(f"{folder / ITEMS}: no table of items ({error}): export it again") from None

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, index: int) -> Item: ...

    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...

    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        places = range(len(self))[index]
        return self.at(places) if isinstance(places, int) else [self.at(place) for place in places]

    def __iter__(self) -> Iterator[Item]:
        """Every item once, without keeping any."""
        return map(self._decode, range(len(self)))

    def _decode(self, place: int) -> Item:
        return Item(**json.loads(self._data[self._starts[place] : self._starts[place + 1]]))
