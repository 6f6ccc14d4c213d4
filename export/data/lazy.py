"""Long sequences that are not held in memory: what is asked for is made when it is asked for."""

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
    """A sequence whose entries are made one by one; a slice is a list."""

    @abstractmethod
    def at(self, place: int) -> T:
        """The entry at `place`, from 0."""

    @overload
    def __getitem__(self, place: int) -> T: ...
    @overload
    def __getitem__(self, place: slice) -> list[T]: ...
    def __getitem__(self, place: int | slice) -> T | list[T]:
        places = range(len(self))[place]
        return [self.at(n) for n in places] if isinstance(places, range) else self.at(places)


class LineFile(Lazy[T]):
    """The lines of a file, each read where it lies by `decode`: 8 bytes of memory a line."""

    def __init__(self, path: Path, decode: Callable[[bytes], T]) -> None:
        self.path, self._decode = path, decode
        self._file = path.open("rb")
        self._ends = np.cumsum(np.fromiter((len(line) for line in self._file), np.int64))

    def __len__(self) -> int:
        return len(self._ends)

    def at(self, place: int) -> T:
        """Read one line."""
        start = int(self._ends[place - 1]) if place else 0
        return self._decode(os.pread(self._file.fileno(), int(self._ends[place]) - start, start))

    def __iter__(self) -> Iterator[T]:
        with self.path.open("rb") as file:
            yield from map(self._decode, file)


class TextFile(LineFile[str]):
    """Texts, one a line as JSON, as `write` leaves them."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, json.loads)

    @classmethod
    def write(cls, texts: Iterable[str], path: Path) -> TextFile:
        """Write one text after the other."""
        with path.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(json.dumps(text, ensure_ascii=False) + "\n" for text in texts)
        return cls(path)


class Joined(Lazy[T]):
    """Several sequences, one behind the other."""

    def __init__(self, parts: Iterable[Sequence[T]]) -> None:
        self._parts = [part for part in parts if len(part)]
        self._starts = [0, *itertools.accumulate(map(len, self._parts))]

    def __len__(self) -> int:
        return self._starts[-1]

    def at(self, place: int) -> T:
        """Ask the part that has it."""
        part = bisect_right(self._starts, place) - 1
        return self._parts[part][place - self._starts[part]]

    def __iter__(self) -> Iterator[T]:
        return itertools.chain.from_iterable(self._parts)
