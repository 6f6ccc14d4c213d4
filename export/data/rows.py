"""Rows of one table, read as a stream: CSV and JSONL line by line, Parquet batch by batch. Memory does not grow."""

from __future__ import annotations

import csv
import itertools
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from swiftrec.export.checkpoints.fields import object_of
from swiftrec.export.data.columns import ColumnMap, missing
from swiftrec.export.data.issues import BAD_COLUMN, BAD_TYPE, BROKEN, ENCODING, NO_COLUMN, UNREADABLE, Kind, Mistakes
from swiftrec.export.data.layout import Layout, Role
from swiftrec.export.data.literals import Conversions
from swiftrec.export.data.part_files import Format, Part, find_parts

MAX_LINE_BYTES = 1 << 24  # a longer line, or a longer cell of CSV, is no table of texts
_BATCH_ROWS = 4_096
_FIRST_ROWS = 100  # of JSONL, in which a column must be that is needed
_PART_STEP = 1 << 40  # row numbers of the next part begin so much higher: a number names part and line in 8 bytes

Cells = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Table:
    """The files of one table and its columns; what is wrong with them goes into `mistakes`.

    `names` maps columns of the files to the names that they are read by; `columns` notes which of them were found.
    """

    path: Path
    parts: tuple[Part, ...]
    layout: Layout
    mistakes: Mistakes
    columns: ColumnMap
    names: dict[str, str]
    conversions: Conversions = field(default_factory=Conversions)

    @property
    def format(self) -> Format:
        """The format of every part."""
        return self.parts[0].format

    def where(self, number: int) -> str:
        """The file and the line of a row; lines and rows count from 1, a CSV's header is line 1."""
        part, line = self._part_and_line(number)
        return f"{part.path}, {part.unit} {line}"

    def line(self, number: int) -> str:
        """The line of a row, and its file where the table has several."""
        part, line = self._part_and_line(number)
        return f"{part.unit} {line}" + (f" of {part.path.name}" if len(self.parts) > 1 else "")

    def rows(self) -> Iterator[tuple[int, Cells]]:
        """Yield (number, cells) of each whole row, part after part; what cannot be read is noted and left out."""
        columns: list[str] = []
        for index, part in enumerate(self.parts):
            reader = _PartReader(self, part, index * _PART_STEP, columns)
            try:
                for line, cells in _READERS[part.format](reader):
                    yield reader.start + line, cells
            except (OSError, EOFError, zlib.error) as error:
                self.mistakes.add(UNREADABLE, part.path, _on_one_line(error))

    def _part_and_line(self, number: int) -> tuple[Part, int]:
        index, line = divmod(number, _PART_STEP)
        return self.parts[index], line


def find(
    folder: Path,
    name: str,
    layout: Layout,
    mistakes: Mistakes,
    *,
    optional: bool = False,
    columns: ColumnMap | None = None,
) -> Table | None:
    """The table `name` in `folder`; None (noted, unless it is optional) if there is not exactly one."""
    columns = columns or ColumnMap()
    try:
        found = find_parts(folder, name, mistakes, optional=optional)
    except OSError as error:
        mistakes.add(UNREADABLE, folder, str(error))
        return None
    return Table(*found, layout, mistakes, columns, columns.of(layout)) if found else None


def _on_one_line(error: Exception) -> str:
    return " ".join(str(error).split())


@dataclass(slots=True)
class _PartReader:
    """Reads one part; `columns` are those of the first part, shared by all."""

    table: Table
    part: Part
    start: int
    columns: list[str]
    damaged: bool = field(default=False, init=False)  # a line since the last `is_whole` was not UTF-8

    def note(self, kind: Kind, line: int, reason: str) -> None:
        """Note a mistake in a line."""
        self.table.mistakes.add(kind, self.table.where(self.start + line), reason)

    def note_file(self, kind: Kind, reason: str) -> None:
        """Note a mistake of the whole file."""
        self.table.mistakes.add(kind, self.part.path, reason)

    def named(self, columns: Sequence[str]) -> list[str]:
        """The names by which columns of the file are read."""
        names = self.table.names
        self.table.columns.mark(columns, names)
        return [names.get(column, column) for column in columns]

    def has_columns(self, columns: Sequence[str]) -> bool:
        """Whether the file has the columns that it must have, each once, and those of the first part."""
        names = self.named(columns)
        if twice := sorted(name for name, count in Counter(names).items() if name and count > 1):
            flags = [f"--column {name}={column}" for column, name in self.table.names.items() if name in twice]
            because = f" ({', '.join(flags)})" if flags else ""
            self.note_file(UNREADABLE, f"column {', '.join(twice)} is there twice{because}")
        has_needed = self.has_needed(names)
        if not self.columns:
            self.columns[:] = names
        elif other := sorted({*self.columns} ^ {*names}):
            self.note_file(NO_COLUMN, f"column {other[0]} is not in every part: write all parts with the same columns")
            return False
        return has_needed and not twice

    def has_needed(self, names: Sequence[str]) -> bool:
        """Whether all columns that the table must have are among `names`; notes those that are not."""
        lacking = [name for name in self.table.layout.needed if name not in names]
        for name in lacking:
            self.note_file(NO_COLUMN, missing(name, names))
        return not lacking

    @property
    def may_be_empty(self) -> bool:
        """Whether it is one of several parts: Spark writes an empty one for a partition without rows."""
        return len(self.table.parts) > 1

    def lines(self, file: BinaryIO) -> Iterator[str]:
        """Yield the lines as text; `damaged` is set when one was not UTF-8, until `is_whole` is called."""
        while line := file.readline(MAX_LINE_BYTES):
            if len(line) == MAX_LINE_BYTES:
                self.note_file(UNREADABLE, f"a line is longer than {MAX_LINE_BYTES:,} bytes")
                return
            try:
                yield line.decode("utf-8")
            except UnicodeDecodeError:
                self.damaged = True
                yield line.decode("utf-8", "replace")

    def is_whole(self, line: int) -> bool:
        """Whether all lines since the last call were UTF-8; notes a mistake if not."""
        if self.damaged:
            self.note(ENCODING, line, "not UTF-8")
        whole, self.damaged = not self.damaged, False
        return whole


def _csv(reader: _PartReader) -> Iterator[tuple[int, Cells]]:
    # The limit holds for the whole process and stands at 131,072 characters, less than a long text: it is only raised.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_BYTES))
    with reader.part.open() as file:
        records = _records(reader, csv.reader(reader.lines(file), strict=True))
        header = next(records, None)
        if header is None and reader.may_be_empty:
            return
        columns = [name.strip() for name in header[1]] if header else []
        if len(columns) == 1 and (other := next((c for c in ";\t|" if c in columns[0]), None)):
            reader.note_file(UNREADABLE, f"columns are separated by {other!r}, needs commas")
        if not reader.has_columns(columns) or not reader.is_whole(1):
            return
        names = reader.named(columns)
        for line, cells in records:
            if len(cells) != len(names):
                reader.note(BROKEN, line, f"{len(cells)} cells, the header has {len(names)}")
                reader.damaged = False
            elif reader.is_whole(line):
                yield line, dict(zip(names, cells, strict=True))


def _records(part: _PartReader, reader: Any) -> Iterator[tuple[int, list[str]]]:  # noqa: ANN401 (csv has no public type)
    """Yield (line on which it begins, cells) of each record that is not empty."""
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            is_one = reader.line_num == line  # else it has read on, as a rule to the end: those rows are lost
            kind = BROKEN if is_one else UNREADABLE
            part.note(kind, line, f"no CSV{'' if is_one else ' from here on'}: {_csv_reason(error)}")
            continue
        if cells:
            yield line, cells


def _csv_reason(error: csv.Error) -> str:
    if "field limit" in str(error):
        return f"a cell is longer than {csv.field_size_limit():,} characters; as a rule a quote is never closed"
    return str(error)


def _jsonl(reader: _PartReader) -> Iterator[tuple[int, Cells]]:
    with reader.part.open() as file:
        rows = _objects(reader, file)
        first = list(itertools.islice(rows, _FIRST_ROWS))
        if not first or reader.has_needed(list(dict.fromkeys(name for _, row in first for name in row))):
            yield from itertools.chain(first, rows)


def _objects(reader: _PartReader, file: BinaryIO) -> Iterator[tuple[int, Cells]]:
    """Yield (line, cells) of each line that is an object."""
    for number, line in enumerate(reader.lines(file), 1):
        if line.isspace() or not reader.is_whole(number):
            continue
        try:
            row = json.loads(line, object_pairs_hook=object_of)
            if isinstance(row, dict) and reader.table.names:
                row = object_of([*zip(reader.named(list(row)), row.values(), strict=True)])
        except json.JSONDecodeError as error:
            reader.note(BROKEN, number, f"not JSON ({error.msg})")
            continue
        except (ValueError, RecursionError) as error:
            reader.note(BROKEN, number, f"cannot be read ({error})")
            continue
        if isinstance(row, dict):
            yield number, row
        else:
            reader.note(BROKEN, number, f"needs an object, got {type(row).__name__}")


def _parquet(reader: _PartReader) -> Iterator[tuple[int, Cells]]:
    # Only here: pyarrow takes 0.1 s and 40 MB, which other formats do without.
    import pyarrow
    from pyarrow import parquet

    from swiftrec.export.data.arrow import values_of

    number = 0
    try:
        # Spark's old 96-bit times reach beyond the years of nanoseconds.
        with parquet.ParquetFile(reader.part.path, coerce_int96_timestamp_unit="us") as file:
            is_empty = not file.metadata.num_rows and reader.may_be_empty
            if is_empty or not reader.has_columns(file.schema_arrow.names):
                return
            layout, roles = reader.table.layout, _roles(reader, file.schema_arrow)
            names = reader.named(list(roles))
            if not {*names} >= layout.needed.keys():
                return
            # A name with a dot in it would be taken for a path: where all columns are read none is named.
            for batch in file.iter_batches(_BATCH_ROWS, columns=None if layout.others else list(roles)):
                columns = [values_of(batch.column(column), role) for column, role in roles.items()]
                for cells in zip(*columns, strict=True):
                    number += 1
                    yield number, dict(zip(names, cells, strict=True))
    except UnicodeDecodeError:
        reader.note(UNREADABLE, number + 1, "a text here or in the rows after it is not UTF-8")
    except pyarrow.ArrowException as error:
        reader.note(UNREADABLE, number + 1, f"no Parquet from here on: {_on_one_line(error)}")


def _roles(reader: _PartReader, schema: Any) -> dict[str, Role]:  # noqa: ANN401 (pyarrow ships no types)
    """Column -> role of those that are read; notes the columns whose type cannot be read."""
    from swiftrec.export.data.arrow import type_fault

    roles: dict[str, Role] = {}
    for column in schema:
        (name,) = reader.named([column.name])
        if (role := reader.table.layout.role(name)) is None:
            continue
        if fault := type_fault(column.name, column.type, role):
            reader.note_file(BAD_COLUMN if role is Role.ATTRIBUTE else BAD_TYPE, fault)
        else:
            roles[column.name] = role
    return roles


_READERS = {"csv": _csv, "jsonl": _jsonl, "parquet": _parquet}
