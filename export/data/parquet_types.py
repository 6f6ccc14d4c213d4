"""Column types of Parquet files: which one can be read for which role of a column, and their Python values."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import compute, types

from swiftrec.export.data.columns import Role
from swiftrec.export.data.order import OTHER_ORDERS

_ALL = frozenset(Role)
_NUMBERS = _ALL - {Role.ID}
_DAY_S = 86_400
_OUT_OF_RANGE = "<value out of range"  # Arrow's text of a date outside the years -32767 to 32767
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}

# Type group -> the roles that a column of such a type can have. All other types are refused.
READABLE: dict[str, frozenset[Role]] = {
    "text": _ALL,
    "whole": _ALL,  # and decimals without a fraction
    "decimal": _NUMBERS,
    "double": _NUMBERS,
    "float": _NUMBERS - {Role.TIME},  # 32 and 16 bits: too coarse for seconds since 1970 (steps of 128 s)
    "bool": frozenset({Role.ATTRIBUTE}),
    "date": frozenset({Role.TIME, Role.ATTRIBUTE}),
    "timestamp": frozenset({Role.TIME, Role.ATTRIBUTE}),
    "list": frozenset({Role.ATTRIBUTE}),  # if an attribute can have the type of its values
    "null": frozenset({Role.TITLE, Role.RATING, Role.ATTRIBUTE}),  # no values: treated as absent
}

_REMEDIES = {
    Role.ID: "cast it to string, or to int64 if it holds whole numbers",
    Role.TEXT: "cast it to string",
    Role.TITLE: "cast it to string",
    Role.TIME: "cast it to timestamp, to seconds in int64 or double, or to ISO 8601 as string",
    Role.RATING: "cast it to double",
    Role.ATTRIBUTE: "cast it to string, a number or a list of strings, or remove the column",
}

_TESTS: tuple[tuple[str, Callable[[Any], bool]], ...] = (
    ("text", lambda t: types.is_string(t) or types.is_large_string(t) or types.is_string_view(t)),
    ("whole", lambda t: types.is_integer(t) or (types.is_decimal(t) and t.scale == 0)),
    ("decimal", types.is_decimal),
    ("double", types.is_float64),
    ("float", types.is_floating),
    ("bool", types.is_boolean),
    ("date", types.is_date),
    ("timestamp", types.is_timestamp),
    ("list", lambda t: types.is_list(t) or types.is_large_list(t) or types.is_fixed_size_list(t)),
    ("null", types.is_null),
)


def type_group(arrow_type: pa.DataType) -> str:
    """The key of `READABLE` for an Arrow type, or "other"."""
    if types.is_dictionary(arrow_type):
        return type_group(arrow_type.value_type)
    return next((kind for kind, test in _TESTS if test(arrow_type)), "other")


def type_fault(name: str, arrow_type: pa.DataType, role: Role) -> str | None:
    """Why a column cannot be read for `role`, with the remedy; None if it can."""
    group = type_group(arrow_type)
    if group == "null" and role not in READABLE[group]:
        instead = f" ({OTHER_ORDERS})" if role is Role.TIME else ""
        return f"column {name} has the type null, so it has no values: fill it{instead}"
    is_readable = role in READABLE.get(group, ())
    if is_readable and group == "list":
        is_readable = type_group(arrow_type.value_type) != "list" and not type_fault(name, arrow_type.value_type, role)
    return (
        None
        if is_readable
        else f"column {name} has the type {arrow_type}, which cannot hold {role.value}: {_remedy(group, role)}"
    )


def _remedy(group: str, role: Role) -> str:
    if role is Role.ID and group in ("double", "float"):
        return f"{_REMEDIES[role]} (pandas: astype('Int64'); a missing value turns a column of integers into decimals)"
    return _REMEDIES[role]


def python_values(column: pa.Array, role: Role) -> list[Any]:
    """The cells of an Arrow array as text, int, float, bool, a list of these, or None.

    Times are seconds since 1970 (without a zone: UTC). `type_fault` must be None.
    """
    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    convert = _CONVERTERS.get(type_group(column.type))
    return convert(column, role) if convert else column.to_pylist()


def _whole(column: pa.Array, role: Role) -> list[int | None]:  # noqa: ARG001
    return [None if value is None else int(value) for value in column.to_pylist()]


def _decimals(column: pa.Array, role: Role) -> list[float | str | None]:
    is_number = role in (Role.TIME, Role.RATING)

    def convert(value: Decimal) -> float | str:
        return float(value) if is_number else format(value, "f")

    return [None if value is None else convert(value) for value in column.to_pylist()]


def _floats(column: pa.Array, role: Role) -> list[float | None]:  # noqa: ARG001
    """The shortest number that is the same float: .1 of 32 bits is .1, not .10000000149."""
    exact = np.float16 if types.is_float16(column.type) else np.float32
    return [None if value is None else float(str(exact(value))) for value in column.to_pylist()]


def _dates(column: pa.Array, role: Role) -> list[float | str | None]:
    if role is Role.TIME:
        days = column.cast(pa.date32()).cast(pa.int32()).to_pylist()
        return [None if day is None else float(day * _DAY_S) for day in days]
    return list(_iso_texts(column.cast(pa.date32())))


def _timestamps(column: pa.Array, role: Role) -> list[float | str | None]:
    """Seconds, or text in UTC: Python's datetime has neither nanoseconds nor a year 10,000."""
    if role is Role.TIME:
        per_second = _PER_SECOND[column.type.unit]
        return [None if value is None else value / per_second for value in column.cast(pa.int64()).to_pylist()]
    zone = "+00:00" if column.type.tz else ""
    texts = _iso_texts(column.cast(pa.timestamp(column.type.unit)))
    return [None if text is None else _without_zeros(text) + zone for text in texts]


def _iso_texts(column: pa.Array) -> list[str | None]:
    """Dates or timestamps as ISO 8601 text; Python's classes end with the year 9999."""
    texts: list[str | None] = column.cast(pa.string()).to_pylist()
    if invalid := next((text for text in texts if text and text.startswith(_OUT_OF_RANGE)), None):
        raise pa.ArrowInvalid(f"{invalid} is a date or time outside the years that can be written")
    return texts


def _without_zeros(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


def _lists(column: pa.Array, role: Role) -> list[list[Any] | None]:
    values, lengths = iter(python_values(column.flatten(), role)), compute.list_value_length(column).to_pylist()
    return [None if length is None else [next(values) for _ in range(length)] for length in lengths]


_CONVERTERS: dict[str, Callable[[Any, Role], list[Any]]] = {
    "whole": _whole,
    "decimal": _decimals,
    "float": _floats,
    "date": _dates,
    "timestamp": _timestamps,
    "list": _lists,
}
