"""Rows of one table, read as a stream: CSV and JSONL line by line, Parquet batch by batch. Memory does not grow."""

from __future__ import annotations

import csv
import difflib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from export.data.mistakes import BROKEN, ENCODING, NO_COLUMN, NO_TABLE, UNREADABLE, Mistakes

_MAX_LINE = 1 << 24  # bytes of one line; a longer one is no table of texts
_BATCH_ROWS = 4_096
_SUFFIXES = (".csv", ".jsonl", ".parquet")

Cells = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Table:
    """One file with the columns that it must have; what is wrong with it goes into `mistakes`."""

    path: Path
    needed: tuple[str, ...]
    mistakes: Mistakes

    def where(self, number: int) -> str:
        """The place of a row in words; lines and rows count from 1, a CSV's header is line 1."""
        return f"{self.path}, {'row' if self.path.suffix == '.parquet' else 'line'} {number}"

    def rows(self) -> Iterator[tuple[int, Cells]]:
        """Yield (number, cells) of each whole row; what cannot be read is noted and left out."""
        try:
            yield from _READERS[self.path.suffix](self)
        except OSError as error:
            self.mistakes.add(UNREADABLE, self.path, str(error))

    def has(self, columns: Sequence[str]) -> bool:
        """Whether every needed column is among `columns`; notes those that are not, with the nearest name."""
        for name in self.needed:
            if name not in columns:
                near = difflib.get_close_matches(name, columns, 1)
                hint = f" (is {near[0]!r} meant?)" if near else ""
                found = ", ".join(map(str, columns)) or "none"
                self.mistakes.add(NO_COLUMN, self.path, f"column {name} is missing{hint}; there are: {found}")
        return all(name in columns for name in self.needed)


def find(
    folder: Path, name: str, needed: tuple[str, ...], mistakes: Mistakes, *, optional: bool = False
) -> Table | None:
    """The table `name` in `folder`; None (noted, unless it is optional) if there is not exactly one."""
    paths = [path for path in (folder / f"{name}{suffix}" for suffix in _SUFFIXES) if path.exists()]
    if len(paths) == 1:
        return Table(paths[0], needed, mistakes)
    if paths:
        mistakes.add(NO_TABLE, folder, f"{', '.join(p.name for p in paths)} are all there: keep one")
    elif not optional:
        mistakes.add(NO_TABLE, folder, f"no {name}.csv, {name}.jsonl or {name}.parquet there")
    return None


class _Lines:
    """The lines of a UTF-8 file as text; `damaged` is set when one was not UTF-8, until it is looked at."""

    def __init__(self, table: Table, file: BinaryIO) -> None:
        self._table, self._file = table, file
        self.damaged = False

    def __iter__(self) -> Iterator[str]:
        while line := self._file.readline(_MAX_LINE):
            if len(line) == _MAX_LINE:
                self._table.mistakes.add(UNREADABLE, self._table.path, f"a line is longer than {_MAX_LINE:,} bytes")
                return
            try:
                yield line.decode("utf-8")
            except UnicodeDecodeError:
                self.damaged = True
                yield line.decode("utf-8", "replace")

    def is_whole(self, number: int) -> bool:
        """Whether all lines since the last question were UTF-8; notes if not."""
        if self.damaged:
            self._table.mistakes.add(ENCODING, self._table.where(number), "not UTF-8")
        whole, self.damaged = not self.damaged, False
        return whole


def _open(table: Table) -> BinaryIO:
    """Open behind a byte order mark; one of UTF-16 is noted, and the file then has no lines."""
    file = table.path.open("rb")
    mark = file.read(3)
    if mark[:2] in (b"\xff\xfe", b"\xfe\xff"):
        table.mistakes.add(UNREADABLE, table.path, "UTF-16, needs UTF-8")
        file.seek(0, 2)
    else:
        file.seek(3 if mark == b"\xef\xbb\xbf" else 0)
    return file


def _csv(table: Table) -> Iterator[tuple[int, Cells]]:
    with _open(table) as file:
        lines = _Lines(table, file)
        reader = csv.reader(lines, strict=True)
        records = _records(table, reader)
        _, header = next(records, (1, []))
        names = [name.strip() for name in header]
        if not table.has(_separated(table, names)) or not lines.is_whole(1):
            return
        for number, cells in records:
            if len(cells) != len(names):
                table.mistakes.add(BROKEN, table.where(number), f"{len(cells)} cells, the header has {len(names)}")
                lines.damaged = False
            elif lines.is_whole(number):
                yield number, dict(zip(names, cells, strict=True))


def _records(table: Table, reader: Any) -> Iterator[tuple[int, list[str]]]:  # noqa: ANN401 (csv has no public type)
    """Yield (line on which it begins, cells) of each record that is not empty."""
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            is_one = reader.line_num == number  # else it has read on, as a rule to the end: those rows are lost
            said = f"no CSV: {error}" if is_one else f"no CSV from here on: {error}"
            table.mistakes.add(BROKEN if is_one else UNREADABLE, table.where(number), said)
            continue
        if cells:
            yield number, cells


def _separated(table: Table, names: list[str]) -> list[str]:
    """The header's names; a header of one cell that holds another separator is noted."""
    if len(names) == 1 and (other := next((c for c in ";\t|" if c in names[0]), None)):
        table.mistakes.add(UNREADABLE, table.path, f"columns are separated by {other!r}, needs commas")
    twice = {name for name in names if name and names.count(name) > 1}
    if twice:
        table.mistakes.add(UNREADABLE, table.path, f"column {', '.join(sorted(twice))} is there twice")
    return names


def _jsonl(table: Table) -> Iterator[tuple[int, Cells]]:
    with _open(table) as file:
        lines = _Lines(table, file)
        for number, line in enumerate(lines, 1):
            if line.isspace() or not lines.is_whole(number):
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                table.mistakes.add(BROKEN, table.where(number), f"not JSON ({getattr(error, 'msg', error)})")
                continue
            if isinstance(row, dict):
                yield number, row
            else:
                table.mistakes.add(BROKEN, table.where(number), f"needs an object, got {type(row).__name__}")


def _parquet(table: Table) -> Iterator[tuple[int, Cells]]:
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(table.path) as file:
            if not table.has(file.schema_arrow.names):
                return
            for batch in file.iter_batches(_BATCH_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        table.mistakes.add(UNREADABLE, table.where(number + 1), f"no Parquet from here on: {error}")


_READERS = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}
