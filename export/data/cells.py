"""One row of a table: its cells as ids, texts, attribute values, times and ratings; unusable cells are reported."""

from __future__ import annotations

import math
from collections.abc import Container, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from swiftrec.export.data.columns import RATING, Role
from swiftrec.export.data.issues import (
    BAD_ATTRIBUTE,
    BAD_ID,
    BAD_RATING,
    BAD_TIME,
    BAD_VALUE,
    EMPTY_CELL,
    IssueKind,
)
from swiftrec.export.data.readers import Cells
from swiftrec.export.data.tables import DataTable, shortened
from swiftrec.export.ids import id_fault
from swiftrec.export.literals import parse_literal
from swiftrec.server.text import is_blank


def read_rows(table: DataTable) -> Iterator[TableRow]:
    """Yield every complete row of a table."""
    for number, cells in table.rows():
        yield TableRow(table, number, cells)


@dataclass(slots=True)
class TableRow:
    """One row of a table. Each method reads one cell and reports an issue if the cell cannot be used."""

    table: DataTable
    number: int
    cells: Cells

    @property
    def location(self) -> str:
        """The file and the line."""
        return self.table.location(self.number)

    def report(self, kind: IssueKind, reason: str) -> None:
        """Add an issue of this row."""
        self.table.issues.add(kind, self.location, reason)

    def id(self, name: str, known: Container[str] = ()) -> str | None:
        """A required id: a text as it is, byte for byte, or a whole number; None if there is none.

        Decimal numbers are refused: 1.0 would be another id than 1 in a table that has whole numbers. An id in `known`
        was checked before.
        """
        value = self.cells.get(name)
        if isinstance(value, str) and value in known:
            return value
        if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
            self.report(EMPTY_CELL, f"{name} is empty or missing")
            return None
        if isinstance(value, bool) or not isinstance(value, str | int):
            self.report(BAD_ID, f"{name} is {shortened(value)}, which is neither a text nor a whole number")
            return None
        text = str(value)
        if fault := id_fault(text):
            self.report(BAD_ID, f"{name} {shortened(text)} {fault}")
            return None
        return text

    def text(self, name: str) -> str | None:
        """A required text, its words separated by single spaces; None if there is none."""
        text = _as_text(self._single(name))
        if text is None:
            self.report(BAD_VALUE, f"{name} is {_shown_single(self.cells[name])}")
        elif not text:
            self.report(EMPTY_CELL, f"{name} is empty or missing")
        return text or None

    def title(self) -> str:
        """The title, its words separated by single spaces; empty if there is none."""
        title = _as_text(self._single("title"))
        if title is None:
            self.report(BAD_ATTRIBUTE, f"title is {_shown_single(self.cells['title'])}")
        return title or ""

    def time(self, name: str) -> float | None:
        """A required time: a number, usually seconds since 1970, or ISO 8601 text as such seconds (default: UTC)."""
        value = self.cells.get(name)
        if value is None or value == "":
            self.report(EMPTY_CELL, f"{name} is empty or missing")
            return None
        seconds = _as_seconds(value)
        if seconds is None or not math.isfinite(seconds):
            self.report(BAD_TIME, f"{name} {shortened(value)} is neither a number nor ISO 8601")
            return None
        return seconds

    def rating(self) -> float:
        """The finite number in the column `rating`; NaN if there is none."""
        value = self.cells.get(RATING)
        if is_missing(value):
            return math.nan
        rating = _as_number(value)
        if rating is None or not math.isfinite(rating):
            self.report(BAD_RATING, f"{RATING} {shortened(value)} is not a finite number")
            return math.nan
        return rating

    def attributes(self) -> dict[str, list[str]]:
        """Attribute -> its values, for those that have some."""
        return {name: values for name in self._attribute_names() if (values := self._values(name))}

    def groups(self) -> dict[str, str]:
        """Attribute -> its single value; empty if there is none."""
        return {name: self._group(name) for name in self._attribute_names()}

    def _attribute_names(self) -> list[str]:
        """The attribute columns; a name that is not Unicode is reported and left out."""
        names = [name for name in self.cells if self.table.layout.role(name) is Role.ATTRIBUTE]
        if invalid := [name for name in names if not _is_unicode(name)]:
            name = shortened(invalid[0])
            self.report(
                BAD_ATTRIBUTE, f"the column's name {name} holds half of a surrogate pair, which is not Unicode text"
            )
        return [name for name in names if name not in invalid]

    def _values(self, name: str) -> list[str]:
        """The distinct values of an attribute: those of a list, or of a text in which "|" separates them."""
        cell = self.cells[name]
        if isinstance(cell, str) and (value := parse_literal(cell)) is not cell:
            self.table.conversions.add(
                name, "bytes" if isinstance(value, str) else "lists", self.table.line(self.number), cell
            )
            cell = value
        values = [_as_value(element) for element in (cell if isinstance(cell, list) else [cell])]
        if None in values:
            self.report(BAD_ATTRIBUTE, f"{name} is {shortened(self.cells[name])}")
            return []
        texts = [value for value in values if value]
        if not isinstance(cell, list):
            texts = [part.strip() for text in texts for part in text.split("|")]
        return list(dict.fromkeys(text for text in texts if not is_missing(text)))

    def _group(self, name: str) -> str:
        group = _as_value(self._single(name))
        if group is None:
            self.report(BAD_ATTRIBUTE, f"{name} is {_shown_single(self.cells[name])}")
        return group or ""

    def _single(self, name: str) -> object:
        """A cell with at most one value; a text that denotes bytes, an object or a list is read as that value.

        A list without a text in it, such as the title "[2]", stays a text.
        """
        cell = self.cells.get(name)
        value = parse_literal(cell) if isinstance(cell, str) else cell
        if isinstance(value, list) and value and not any(isinstance(element, str) for element in value):
            return cell
        if isinstance(value, str) and value is not cell:
            self.table.conversions.add(name, "bytes", self.table.line(self.number), str(cell))
        return value


def is_missing(value: object) -> bool:
    """Whether a cell has no value: null, an empty list, no visible character, or NaN."""
    if isinstance(value, str):
        return is_blank(value) and _is_unicode(value)
    return value is None or value == [] or (isinstance(value, float) and math.isnan(value))


def _shown_single(value: object) -> str:
    is_literal = isinstance(value, str) and parse_literal(value) is not value
    return shortened(value) + (" (a list, an object or bytes, written as text)" if is_literal else "")


def _as_text(value: object) -> str | None:
    text = None if isinstance(value, bool) else _as_value(value)
    return None if text is None else " ".join(text.split())


def _as_value(value: object) -> str | None:
    """A text as it is, a number without a fraction as a whole one, true or false; "" if missing, None if unusable."""
    if is_missing(value):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, int | float):
        return str(value)
    return value if isinstance(value, str) and (value.isascii() or _is_unicode(value)) else None


def _is_unicode(text: str) -> bool:
    """Whether it can be encoded: JSON can contain half of a surrogate pair."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _as_seconds(value: object) -> float | None:
    number = _as_number(value)
    if number is not None or not isinstance(value, str):
        return number
    try:
        moment = datetime.fromisoformat(value.strip())
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def _as_number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float) or (isinstance(value, str) and "_" in value):
        return None  # Python would read 1_5 as 15
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None
