"""One cell as an id, a text, attribute values, a time or a rating; None where it holds none: the mistake is noted."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime

from swiftrec.export.data.ids import id_fault
from swiftrec.export.data.issues import BAD_ID, CELL, EMPTY, RATED, TIME, VALUE, Mistakes
from swiftrec.export.data.layout import RATING, Role
from swiftrec.export.data.literals import denoted
from swiftrec.export.data.rows import Cells, Table
from swiftrec.server.text import is_blank

_SHOWN_CHARS = 60


def is_missing(value: object) -> bool:
    """Whether a cell holds nothing: null, an empty list, no visible character, or NaN, the null of numbers."""
    if isinstance(value, str):
        return is_blank(value) and _is_unicode(value)
    return value is None or value == [] or (isinstance(value, float) and math.isnan(value))


def has_values(table: Table, name: str) -> bool:
    """Whether any row has something in the column `name`: one without a single value is as good as none.

    JSONL that has none is read to its end for this, a second time; else the first row says it as a rule.
    """
    for _, row in replace(table, mistakes=Mistakes()).rows():
        if not is_missing(row.get(name)):
            return True
        if name not in row and table.format != "jsonl":
            return False
    return False


def needed_id(table: Table, number: int, row: Cells, name: str) -> str | None:
    """An id: a text as it is, byte for byte, or a whole number.

    A decimal number is none: 1.0 would be another id than 1 in a table that has whole numbers.
    """
    value = row.get(name)
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        table.mistakes.add(EMPTY, table.where(number), f"{name} is empty or missing")
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        reason = f"{name} is {_shown(value)}, which is neither a text nor a whole number"
        table.mistakes.add(BAD_ID, table.where(number), reason)
        return None
    text = str(value)
    if fault := id_fault(text):
        table.mistakes.add(BAD_ID, table.where(number), f"{name} {_shown(text)} {fault}")
        return None
    return text


def needed_text(table: Table, number: int, row: Cells, name: str) -> str | None:
    """The text of a cell that must not be empty, its words separated by single spaces."""
    text = _text_of(_single(table, number, row, name))
    if text is None:
        table.mistakes.add(VALUE, table.where(number), f"{name} is {_shown_single(row[name])}")
    elif not text:
        table.mistakes.add(EMPTY, table.where(number), f"{name} is empty or missing")
    return text or None


def title_of(table: Table, number: int, row: Cells) -> str:
    """The title, its words separated by single spaces; empty where there is none."""
    title = _text_of(_single(table, number, row, "title"))
    if title is None:
        table.mistakes.add(CELL, table.where(number), f"title is {_shown_single(row['title'])}")
    return title or ""


def attribute_names(table: Table, number: int, row: Cells) -> list[str]:
    """The attribute columns of a row; a name that cannot be written is noted, and its cell left out."""
    names = [name for name in row if table.layout.role(name) is Role.ATTRIBUTE]
    if wrong := [name for name in names if not _is_unicode(name)]:
        reason = f"the column's name {_shown(wrong[0])} holds half of a surrogate pair, which is not Unicode text"
        table.mistakes.add(CELL, table.where(number), reason)
    return [name for name in names if name not in wrong]


def values_of(table: Table, number: int, row: Cells, name: str) -> list[str]:
    """The values of an attribute, each once, as they are: a list, or a text in which "|" separates them.

    None of a cell that is wrong. A list that was written as text is one, too (`export.data.literals`).
    """
    cell = row[name]
    if isinstance(cell, str) and (found := denoted(cell)) is not cell:
        table.conversions.add(name, "bytes" if isinstance(found, str) else "lists", table.line(number), cell)
        cell = found
    values = [_value_of(part) for part in (cell if isinstance(cell, list) else [cell])]
    if None in values:
        table.mistakes.add(CELL, table.where(number), f"{name} is {_shown(row[name])}")
        return []
    texts = [value for value in values if value]
    if not isinstance(cell, list):
        texts = [part.strip() for text in texts for part in text.split("|")]
    return list(dict.fromkeys(text for text in texts if not is_missing(text)))


def group_of(table: Table, number: int, row: Cells, name: str) -> str:
    """The group that a user belongs to by one column; empty where there is none."""
    group = _value_of(_single(table, number, row, name))
    if group is None:
        table.mistakes.add(CELL, table.where(number), f"{name} is {_shown_single(row[name])}")
    return group or ""


def _single(table: Table, number: int, row: Cells, name: str) -> object:
    """A cell that may hold one value; a text that denotes bytes, an object or a list counts as that.

    A list without a text in it, such as the title "[2]", stays a text.
    """
    cell = row.get(name)
    found = denoted(cell) if isinstance(cell, str) else cell
    if isinstance(found, list) and found and not any(isinstance(value, str) for value in found):
        return cell
    if isinstance(found, str) and found is not cell:
        table.conversions.add(name, "bytes", table.line(number), str(cell))
    return found


def _shown_single(value: object) -> str:
    is_literal = isinstance(value, str) and denoted(value) is not value
    return _shown(value) + (" (a list, an object or bytes, written as text)" if is_literal else "")


def _text_of(value: object) -> str | None:
    text = None if isinstance(value, bool) else _value_of(value)
    return None if text is None else " ".join(text.split())


def _value_of(value: object) -> str | None:
    """A text as it is, a number without a fraction as a whole one, true or false; "" if missing, None for the rest."""
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
    """Whether it can be written: JSON can name half of a surrogate pair."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def needed_time(table: Table, number: int, row: Cells, name: str) -> float | None:
    """A number, as a rule seconds since 1970, or an ISO 8601 text as such seconds (UTC unless it says otherwise)."""
    value = row.get(name)
    if value is None or value == "":
        table.mistakes.add(EMPTY, table.where(number), f"{name} is empty or missing")
        return None
    seconds = _seconds(value)
    if seconds is None or not math.isfinite(seconds):
        table.mistakes.add(TIME, table.where(number), f"{name} {_shown(value)} is neither a number nor ISO 8601")
        return None
    return seconds


def _seconds(value: object) -> float | None:
    number = _number(value)
    if number is not None or not isinstance(value, str):
        return number
    try:
        moment = datetime.fromisoformat(value.strip())
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def rating_of(table: Table, number: int, row: Cells) -> float:
    """The finite number in the column `rating`; NaN where there is none, or one that is wrong."""
    value = row.get(RATING)
    if is_missing(value):
        return math.nan
    rating = _number(value)
    if rating is None or not math.isfinite(rating):
        table.mistakes.add(RATED, table.where(number), f"{RATING} {_shown(value)} is no finite number")
        return math.nan
    return rating


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float) or (isinstance(value, str) and "_" in value):
        return None  # Python would take 1_5 for 15
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}..."
