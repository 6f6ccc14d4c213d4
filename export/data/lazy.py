"""Long sequences that are not held in memory: each element is read or made on access."""

from __future__ import annotations

import itertools
import json
import os
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar, overload

import numpy as np

T = TypeVar("T")


class Lazy(Sequence[T]):
    """A sequence whose elements are made on access; a slice is a list."""

    @abstractmethod
    def at(self, index: int) -> T:
        """The element at `index`, from 0."""

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        chosen = range(len(self))[index]
        return [self.at(n) for n in chosen] if isinstance(chosen, range) else self.at(chosen)


class LineFile(Lazy[T]):
    """The lines of a file, each read and decoded on access: 8 bytes of memory a line."""

    def __init__(self, path: Path, decode: Callable[[bytes], T]) -> None:
        self.path, self._decode = path, decode
        self._file = path.open("rb")
        self._ends = np.cumsum(np.fromiter((len(line) for line in self._file), np.int64))

    def __len__(self) -> int:
        return len(self._ends)

    def at(self, index: int) -> T:
        """Read one line."""
        start = int(self._ends[index - 1]) if index else 0
        return self._decode(os.pread(self._file.fileno(), int(self._ends[index]) - start, start))

    def __iter__(self) -> Iterator[T]:
        with self.path.open("rb") as file:
            yield from map(self._decode, file)


class TextFile(LineFile[str]):
    """Texts as `write` writes them: one JSON string a line."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, json.loads)

    @classmethod
    def write(cls, texts: Iterable[str], path: Path) -> TextFile:
        """Write the texts and open the file."""
        with path.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(json.dumps(text, ensure_ascii=False) + "\n" for text in texts)
        return cls(path)


class Joined(Lazy[T]):
    """The concatenation of several sequences."""

    def __init__(self, parts: Iterable[Sequence[T]]) -> None:
        self._parts = [part for part in parts if len(part)]
        self._starts = [0, *itertools.accumulate(map(len, self._parts))]

    def __len__(self) -> int:
        return self._starts[-1]

    def at(self, index: int) -> T:
        """The element of the part that contains `index`."""
        part = bisect_right(self._starts, index) - 1
        return self._parts[part][index - self._starts[part]]

    def __iter__(self) -> Iterator[T]:
        return itertools.chain.from_iterable(self._parts)
