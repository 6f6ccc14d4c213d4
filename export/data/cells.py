"""One cell as an id, a text, values, a time or a rating; None where it holds none, and the mistake is noted."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, time
from decimal import Decimal

from export.data.mistakes import BAD_ID, CELL, EMPTY, RATED, TIME, VALUE
from export.data.rows import Cells, Table

RATING = "rating"  # the column


def text_of(value: object) -> str | None:
    """A text with single spaces, "" for an empty cell or NaN, None for what is neither text nor number.

    A whole float is written as an integer: an id column with a gap comes out of many tools as floats.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if not isinstance(value, str | int | float | date):
        return None
    text = " ".join(str(value).split())
    return text if text.isascii() or _is_unicode(text) else None


def _is_unicode(text: str) -> bool:
    """Whether it can be written: JSON can name half of a surrogate pair."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def needed_text(table: Table, number: int, row: Cells, name: str) -> str | None:
    """The text of a cell that must not be empty."""
    text = text_of(row.get(name))
    if text is None:
        table.mistakes.add(VALUE, table.where(number), f"{name} is {_shown(row[name])}")
    elif not text:
        table.mistakes.add(EMPTY, table.where(number), f"{name} is empty or missing")
    return text or None


def needed_id(table: Table, number: int, row: Cells, name: str) -> str | None:
    """An id: a text that can be printed."""
    text = needed_text(table, number, row, name)
    if text is not None and not text.isprintable():
        table.mistakes.add(BAD_ID, table.where(number), f"{name} {text!r} holds characters that cannot be printed")
        return None
    return text


def needed_time(table: Table, number: int, row: Cells, name: str) -> float | None:
    """Seconds since 1970 of a number, an ISO 8601 text (UTC unless it says otherwise) or a Parquet date or time."""
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
    try:
        if isinstance(value, str):
            value = _number_or_date(value)
        if isinstance(value, datetime):
            return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
        if isinstance(value, date):
            return datetime.combine(value, time(), UTC).timestamp()
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
    except (ValueError, OverflowError, OSError):
        return None


def _number_or_date(text: str) -> float | datetime:
    try:
        return float(text)
    except ValueError:
        return datetime.fromisoformat(text.strip())


def needed_rating(table: Table, number: int, row: Cells) -> float | None:
    """The finite number in the column `rating`."""
    value = row.get(RATING)
    if value is None or value == "":
        table.mistakes.add(RATED, table.where(number), f"{RATING} is empty or missing")
        return None
    rating = _number(value)
    if rating is None or not math.isfinite(rating):
        table.mistakes.add(RATED, table.where(number), f"{RATING} {_shown(value)} is no finite number")
        return None
    return rating


def _number(value: object) -> float | None:
    try:
        return float(value) if isinstance(value, str | int | float | Decimal) and not isinstance(value, bool) else None
    except (ValueError, OverflowError):
        return None


def values_of(table: Table, number: int, row: Cells, name: str) -> list[str]:
    """The values of an attribute: a list, or a text in which "|" separates them; none of a cell that is wrong."""
    cell = row[name]
    parts = [text_of(part) for part in (cell if isinstance(cell, list) else [cell])]
    if None in parts:
        table.mistakes.add(CELL, table.where(number), f"{name} is {_shown(cell)}")
        return []
    split = [value.strip() for part in parts if part for value in part.split("|")]
    return list(dict.fromkeys(value for value in split if value))


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
