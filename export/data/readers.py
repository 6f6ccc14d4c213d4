"""Rows of one file: CSV and JSONL line by line, Parquet batch by batch, so that memory does not grow."""

from __future__ import annotations

import csv
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO

from swiftrec.export.data.columns import Role, missing_column
from swiftrec.export.data.issues import (
    BAD_ATTRIBUTE_COLUMN,
    BAD_ENCODING,
    BAD_TYPE,
    BROKEN_ROW,
    NO_COLUMN,
    UNREADABLE,
    IssueKind,
)
from swiftrec.export.data.part_files import Part
from swiftrec.export.strict_json import unique_object

if TYPE_CHECKING:
    from pyarrow import parquet

    from swiftrec.export.data.tables import DataTable

MAX_LINE_BYTES = 1 << 24  # a longer line, or a longer cell of CSV, is not part of a table of texts
_BATCH_ROWS = 4_096
_FIRST_ROWS = 100  # of JSONL, which must contain the required columns

Cells = dict[str, Any]
NumberedRows = Iterator[tuple[int, Cells]]


def on_one_line(error: Exception) -> str:
    """The message of an exception without line breaks."""
    return " ".join(str(error).split())


@dataclass(slots=True)
class PartReader:
    """Reads one part of a table; `columns` are those of the first part, shared by all parts."""

    table: DataTable
    part: Part
    start: int
    columns: list[str]
    damaged: bool = field(default=False, init=False)  # a line since the last `is_utf8` was not UTF-8

    def report(self, kind: IssueKind, line: int, reason: str) -> None:
        """Add an issue of a line."""
        self.table.issues.add(kind, self.table.location(self.start + line), reason)

    def report_file(self, kind: IssueKind, reason: str) -> None:
        """Add an issue of the whole file."""
        self.table.issues.add(kind, self.part.path, reason)

    def names_of(self, columns: Sequence[str]) -> list[str]:
        """The names by which columns of the file are read."""
        names = self.table.names
        self.table.columns.mark_used(columns, names)
        return [names.get(column, column) for column in columns]

    def has_columns(self, columns: Sequence[str]) -> bool:
        """Whether the file has the required columns, each once, and those of the first part."""
        names = self.names_of(columns)
        if twice := sorted(name for name, count in Counter(names).items() if name and count > 1):
            flags = [f"--column {name}={column}" for column, name in self.table.names.items() if name in twice]
            because = f" ({', '.join(flags)})" if flags else ""
            self.report_file(UNREADABLE, f"column {', '.join(twice)} occurs twice{because}")
        has_required = self.has_required(names)
        if not self.columns:
            self.columns[:] = names
        elif other := sorted({*self.columns} ^ {*names}):
            self.report_file(
                NO_COLUMN, f"column {other[0]} is not in every part: write all parts with the same columns"
            )
            return False
        return has_required and not twice

    def has_required(self, names: Sequence[str]) -> bool:
        """Whether all required columns are among `names`; reports those that are not."""
        missing = [name for name in self.table.layout.required if name not in names]
        for name in missing:
            self.report_file(NO_COLUMN, missing_column(name, names))
        return not missing

    @property
    def may_be_empty(self) -> bool:
        """Whether it is one of several parts: Spark writes an empty one for a partition without rows."""
        return len(self.table.parts) > 1

    def lines(self, file: BinaryIO) -> Iterator[str]:
        """Yield the lines as text; `damaged` is set when one was not UTF-8, until `is_utf8` is called."""
        while line := file.readline(MAX_LINE_BYTES):
            if len(line) == MAX_LINE_BYTES:
                self.report_file(UNREADABLE, f"a line is longer than {MAX_LINE_BYTES:,} bytes")
                return
            try:
                yield line.decode("utf-8")
            except UnicodeDecodeError:
                self.damaged = True
                yield line.decode("utf-8", "replace")

    def is_utf8(self, line: int) -> bool:
        """Whether all lines since the last call were UTF-8; reports it if not."""
        if not self.damaged:
            return True
        self.report(BAD_ENCODING, line, "not UTF-8")
        self.damaged = False
        return False


def _read_csv(reader: PartReader) -> NumberedRows:
    # The limit applies to the whole process and is 131,072 characters, less than a long text: it is only raised.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_BYTES))
    with reader.part.open() as file:
        records = _csv_records(reader, csv.reader(reader.lines(file), strict=True))
        header = next(records, None)
        if header is None and reader.may_be_empty:
            return
        columns = [name.strip() for name in header[1]] if header else []
        if len(columns) == 1 and (separator := next((c for c in ";\t|" if c in columns[0]), None)):
            reader.report_file(UNREADABLE, f"columns are separated by {separator!r}, needs commas")
        if not reader.has_columns(columns) or not reader.is_utf8(1):
            return
        names = reader.names_of(columns)
        for line, cells in records:
            if len(cells) != len(names):
                reader.report(BROKEN_ROW, line, f"{len(cells)} cells, the header has {len(names)}")
                reader.damaged = False
            elif reader.is_utf8(line):
                yield line, dict(zip(names, cells, strict=True))


def _csv_records(part: PartReader, reader: Any) -> Iterator[tuple[int, list[str]]]:  # noqa: ANN401 (csv has no type)
    """Yield (line on which it begins, cells) of each record that is not empty."""
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            is_one_line = reader.line_num == line  # else the csv module has read on, usually to the end of the file
            kind = BROKEN_ROW if is_one_line else UNREADABLE
            part.report(kind, line, f"no CSV{'' if is_one_line else ' from here on'}: {_csv_reason(error)}")
            continue
        if cells:
            yield line, cells


def _csv_reason(error: csv.Error) -> str:
    if "field limit" in str(error):
        return f"a cell is longer than {csv.field_size_limit():,} characters; probably a quote is never closed"
    return str(error)


def _read_jsonl(reader: PartReader) -> NumberedRows:
    with reader.part.open() as file:
        rows = _json_objects(reader, file)
        first = list(itertools.islice(rows, _FIRST_ROWS))
        if not first or reader.has_required(list(dict.fromkeys(name for _, row in first for name in row))):
            yield from itertools.chain(first, rows)


def _json_objects(reader: PartReader, file: BinaryIO) -> NumberedRows:
    """Yield (line, cells) of each line that is an object."""
    for number, line in enumerate(reader.lines(file), 1):
        if line.isspace() or not reader.is_utf8(number):
            continue
        try:
            row = json.loads(line, object_pairs_hook=unique_object)
            if isinstance(row, dict) and reader.table.names:
                row = unique_object([*zip(reader.names_of(list(row)), row.values(), strict=True)])
        except json.JSONDecodeError as error:
            reader.report(BROKEN_ROW, number, f"not JSON ({error.msg})")
            continue
        except (ValueError, RecursionError) as error:
            reader.report(BROKEN_ROW, number, f"cannot be read ({error})")
            continue
        if isinstance(row, dict):
            yield number, row
        else:
            reader.report(BROKEN_ROW, number, f"needs an object, got {type(row).__name__}")


def _read_parquet(reader: PartReader) -> NumberedRows:
    # Imported here: pyarrow takes 0.1 s and 40 MB, which the other formats do not need.
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        # Spark's old 96-bit times may be outside the range of nanoseconds.
        with parquet.ParquetFile(reader.part.path, coerce_int96_timestamp_unit="us") as file:
            for cells in _parquet_rows(reader, file):
                number += 1
                yield number, cells
    except UnicodeDecodeError:
        reader.report(UNREADABLE, number + 1, "a text in this row or a later one is not UTF-8")
    except pyarrow.ArrowException as error:
        reader.report(UNREADABLE, number + 1, f"no Parquet from here on: {on_one_line(error)}")


def _parquet_rows(reader: PartReader, file: parquet.ParquetFile) -> Iterator[Cells]:
    from swiftrec.export.data.parquet_types import python_values

    is_empty = not file.metadata.num_rows and reader.may_be_empty
    if is_empty or not reader.has_columns(file.schema_arrow.names):
        return
    layout, roles = reader.table.layout, _column_roles(reader, file.schema_arrow)
    names = reader.names_of(list(roles))
    if not {*names} >= layout.required.keys():
        return
    # A name with a dot would be taken for a path, so no names are passed if all columns are read.
    for batch in file.iter_batches(_BATCH_ROWS, columns=None if layout.others else list(roles)):
        columns = [python_values(batch.column(column), role) for column, role in roles.items()]
        for cells in zip(*columns, strict=True):
            yield dict(zip(names, cells, strict=True))


def _column_roles(reader: PartReader, schema: Any) -> dict[str, Role]:  # noqa: ANN401 (pyarrow ships no types)
    """Column -> role of those that are read; reports the columns whose type cannot be read."""
    from swiftrec.export.data.parquet_types import type_fault

    roles: dict[str, Role] = {}
    for column in schema:
        (name,) = reader.names_of([column.name])
        if (role := reader.table.layout.role(name)) is None:
            continue
        if fault := type_fault(column.name, column.type, role):
            reader.report_file(BAD_ATTRIBUTE_COLUMN if role is Role.ATTRIBUTE else BAD_TYPE, fault)
        else:
            roles[column.name] = role
    return roles


READERS = {"csv": _read_csv, "jsonl": _read_jsonl, "parquet": _read_parquet}
