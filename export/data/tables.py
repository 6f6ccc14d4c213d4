"""One table: its files and columns, and all its rows with their numbers, from which file and line are known."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from swiftrec.export.data.columns import ColumnMap, Layout
from swiftrec.export.data.issues import UNREADABLE, Issues
from swiftrec.export.data.part_files import Part, find_parts
from swiftrec.export.data.readers import READERS, NumberedRows, PartReader, on_one_line

_PART_STEP = 1 << 40  # row numbers of the next part start at the next multiple: 8 bytes say part and line
_MAX_SHOWN_CHARS = 60


@dataclass(slots=True)
class Conversions:
    """Cells of one table that were written as text and read as the value that they denote."""

    _counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    _first: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, column: str, kind: str, line: str, cell: str) -> None:
        """Count one; `kind` is "lists" or "bytes"."""
        self._counts[column, kind] += 1
        if self._counts[column, kind] == 1:
            self._first[column, kind] = f"{line}: {shortened(cell)}"

    def sentences(self) -> list[str]:
        """One for each column and kind, with the number of cells and the first one."""
        return [
            f"{kind} written as text in {count:,} cell{'s' if count > 1 else ''} of {column} "
            f"(first: {self._first[column, kind]}): read as {kind}"
            for (column, kind), count in self._counts.items()
        ]


@dataclass(frozen=True, slots=True)
class DataTable:
    """The files of one table.

    Args:
        path: the file or the folder of part files.
        parts: the files.
        layout: the columns that the table has.
        issues: what is wrong with the table is added here.
        columns: notes which columns of `--column` the table has.
        names: column of the files -> the name that it is read by.
    """

    path: Path
    parts: tuple[Part, ...]
    layout: Layout
    issues: Issues
    columns: ColumnMap
    names: dict[str, str]
    conversions: Conversions = field(default_factory=Conversions)

    def location(self, number: int) -> str:
        """The file and the line of a row; lines and rows count from 1, a CSV's header is line 1."""
        part, line = self._part_and_line(number)
        return f"{part.path}, {part.unit} {line}"

    def line(self, number: int) -> str:
        """The line of a row, and its file if the table has several."""
        part, line = self._part_and_line(number)
        return f"{part.unit} {line}" + (f" of {part.path.name}" if len(self.parts) > 1 else "")

    def rows(self) -> NumberedRows:
        """Yield (number, cells) of each complete row, part after part; anything unreadable is reported and left out."""
        columns: list[str] = []
        for index, part in enumerate(self.parts):
            reader = PartReader(self, part, index * _PART_STEP, columns)
            try:
                for line, cells in READERS[part.format](reader):
                    yield reader.start + line, cells
            except (OSError, EOFError, zlib.error) as error:
                self.issues.add(UNREADABLE, part.path, on_one_line(error))

    def has_values(self, name: str, is_missing: Callable[[object], bool]) -> bool:
        """Whether any row has a value in the column `name`; a column without one is treated as absent.

        Usually the first row decides; JSONL without any value is read to its end once more.
        """
        for _, cells in DataTable(self.path, self.parts, self.layout, Issues(), self.columns, self.names).rows():
            if not is_missing(cells.get(name)):
                return True
            if name not in cells and self.parts[0].format != "jsonl":
                return False
        return False

    def _part_and_line(self, number: int) -> tuple[Part, int]:
        index, line = divmod(number, _PART_STEP)
        return self.parts[index], line


def find_table(
    folder: Path,
    name: str,
    layout: Layout,
    issues: Issues,
    *,
    optional: bool = False,
    columns: ColumnMap | None = None,
) -> DataTable | None:
    """The table `name` in `folder`; None (reported, unless it is optional) if there is not exactly one."""
    columns = columns or ColumnMap()
    try:
        files = find_parts(folder, name, issues, optional=optional)
    except OSError as error:
        issues.add(UNREADABLE, folder, str(error))
        return None
    return DataTable(*files, layout, issues, columns, columns.names_for(layout)) if files else None


def shortened(value: object) -> str:
    """A value as messages show it."""
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN_CHARS else f"{text[:_MAX_SHOWN_CHARS]}..."
