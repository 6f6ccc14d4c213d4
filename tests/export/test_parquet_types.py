"""Every Arrow type of a Parquet column in every role is read as its value, or refused by name."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pytest
from pyarrow import parquet

from swiftrec.export.data.columns import Role
from swiftrec.export.data.scan import LoadOptions, Scan

_DAYS = [date(2026, 1, day) for day in (1, 2, 3, 4)]
_MOMENTS = [datetime(2026, 1, day, 12, tzinfo=UTC) for day in (1, 2, 3, 4)]
_SECONDS = [moment.timestamp() for moment in _MOMENTS]
_NANOSECONDS = [int(seconds) * 10**9 + 123_456_789 for seconds in _SECONDS]
_NUMBERS = [1, 2, 3, 4]
_TEXTS = ["1", "2", "3", "4"]
_HALVES = [0.5, 1.5, 2.5, 3.5]
_TENTHS = [Decimal("1.10"), Decimal("2.20"), Decimal("3.30"), Decimal("4.40")]

# Name -> type and four values of it.
_TYPES: dict[str, tuple[pa.DataType, Sequence[Any]]] = {
    **{str(t): (t, _NUMBERS) for t in (pa.int8(), pa.int16(), pa.int32(), pa.int64())},
    **{str(t): (t, _NUMBERS) for t in (pa.uint8(), pa.uint16(), pa.uint32())},
    "uint64": (pa.uint64(), [1, 2, 3, 2**64 - 1]),
    **{str(t): (t, _HALVES) for t in (pa.float16(), pa.float32(), pa.float64())},
    **{str(t): (t, _NUMBERS) for t in (pa.decimal32(9, 0), pa.decimal128(38, 0), pa.decimal256(40, 0))},
    **{str(t): (t, _TENTHS) for t in (pa.decimal64(9, 2), pa.decimal128(5, 2), pa.decimal256(40, 2))},
    **{str(t): (t, _TEXTS) for t in (pa.string(), pa.large_string(), pa.string_view())},
    **{str(t): (t, [b"a", b"b", b"c", b"d"]) for t in (pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(1))},
    "bool": (pa.bool_(), [True, False, True, False]),
    "null": (pa.null(), [None] * 4),
    **{str(t): (t, _DAYS) for t in (pa.date32(), pa.date64())},
    **{f"{t}": (t, _MOMENTS) for t in (pa.timestamp("s"), pa.timestamp("ms"), pa.timestamp("us", "UTC"))},
    **{f"{t}": (t, _NANOSECONDS) for t in (pa.timestamp("ns"), pa.timestamp("ns", "Europe/Berlin"))},
    **{str(t): (t, [time(hour) for hour in range(4)]) for t in (pa.time32("s"), pa.time64("ns"))},
    "duration": (pa.duration("s"), [timedelta(hours=hour) for hour in range(4)]),
    "uuid": (pa.uuid(), [UUID(int=n).bytes for n in range(4)]),
    "json": (pa.json_(), _TEXTS),
    "struct": (pa.struct({"x": pa.string()}), [{"x": text} for text in _TEXTS]),
    "map": (pa.map_(pa.string(), pa.string()), [[("x", text)] for text in _TEXTS]),
    **{
        str(t): (t, [["a", "b"], ["c|d", "e"], [None, "f"], None])
        for t in (pa.list_(pa.string()), pa.large_list(pa.string()), pa.list_(pa.string(), 2))
    },
    "list<float>": (pa.list_(pa.float32()), [[0.1, 2], [], None, [0.5]]),
    "list<timestamp>": (pa.list_(pa.timestamp("ns")), [[value] for value in _NANOSECONDS]),
    "list<struct>": (pa.list_(pa.struct({"x": pa.string()})), [[{"x": text}] for text in _TEXTS]),
    "list<list>": (pa.list_(pa.list_(pa.string())), [[[text]] for text in _TEXTS]),
    "dictionary<string>": (pa.dictionary(pa.int32(), pa.string()), _TEXTS),
    "dictionary<int64>": (pa.dictionary(pa.int8(), pa.int64()), _NUMBERS),
}
_WHOLE = {str(t) for t in (pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32())} | {
    "uint64",
    "decimal32(9, 0)",
    "decimal128(38, 0)",
    "decimal256(40, 0)",
    "dictionary<int64>",
}
_TEXT = {"string", "large_string", "string_view", "dictionary<string>"}
_FRACTIONS = {"double", "decimal64(9, 2)", "decimal128(5, 2)", "decimal256(40, 2)"}
_SHORT = {"halffloat", "float"}
_CLOCKS = {name for name in _TYPES if name.startswith(("date", "timestamp"))}
_LISTS = {name for name in _TYPES if "list" in name} - {"list<struct>", "list<list>"}

# What can be read in each role; everything else must be refused.
_ROLES: dict[Role, set[str]] = {
    Role.ID: _TEXT | _WHOLE,
    Role.TEXT: _TEXT | _WHOLE | _FRACTIONS | _SHORT,
    Role.TITLE: _TEXT | _WHOLE | _FRACTIONS | _SHORT | {"null"},
    Role.TIME: _TEXT | _WHOLE | _FRACTIONS | _CLOCKS,
    Role.RATING: _TEXT | _WHOLE | _FRACTIONS | _SHORT | {"null"},
    Role.ATTRIBUTE: _TEXT | _WHOLE | _FRACTIONS | _SHORT | _CLOCKS | _LISTS | {"bool", "null"},
}
_COLUMNS = {
    Role.ID: ("items", "item_id"),
    Role.TEXT: ("items", "text"),
    Role.TITLE: ("items", "title"),
    Role.TIME: ("interactions", "timestamp"),
    Role.RATING: ("interactions", "rating"),
    Role.ATTRIBUTE: ("items", "genre"),
}


def scan(folder: Path, role: Role, arrow_type: pa.DataType, values: Sequence[Any]) -> tuple[Scan, list[Any]]:
    """Read a data set in which one column, for `role`, has this type; return its items, too."""
    array = pa.array(values, arrow_type.storage_type if isinstance(arrow_type, pa.ExtensionType) else arrow_type)
    if isinstance(arrow_type, pa.ExtensionType):
        array = pa.ExtensionArray.from_storage(arrow_type, array)
    ids = ["a", "b", "c", "d"]
    if role is Role.ID:
        ids = [f"id-{n}" if isinstance(value, bytes | list) else str(value) for n, value in enumerate(values)]
    columns: dict[str, dict[str, Any]] = {
        "items": {"item_id": ids, "text": ["a", "b", "c", "d"]},
        "interactions": {
            "user_id": ["u"] * 4 + ["v"] * 4,
            "item_id": ids * 2,
            "timestamp": [*range(4)] * 2,
        },
    }
    name, column = _COLUMNS[role]
    columns[name][column] = pa.concat_arrays([array, array]) if name == "interactions" else array
    for table, cells in columns.items():
        parquet.write_table(pa.table(cells), folder / f"{table}.parquet")
    items: list[Any] = []
    return Scan(folder, items.append), items


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("name", _TYPES)
def test_type_is_read_for_a_role_or_refused_by_name(tmp_path: Path, name: str, role: Role) -> None:
    arrow_type, values = _TYPES[name]
    result, items = scan(tmp_path, role, arrow_type, values)
    report = result.issues.report()
    if name in _ROLES[role]:
        assert report == ""
        assert (len(items), len(result.interactions)) == (4, 8)
        return
    table, column = _COLUMNS[role]
    assert f"{tmp_path / table}.parquet: column {column} has the type " in report
    assert report.count("\n") == 1  # once for the file, not for each row
    assert "so it has no values: fill it" in report if name == "null" else "cast it to" in report
    assert result.issues.is_fatal == (role is not Role.ATTRIBUTE)


@pytest.mark.parametrize("name", sorted(_ROLES[Role.TIME] - {"uint64"}))
def test_times_of_every_type_are_seconds(tmp_path: Path, name: str) -> None:
    arrow_type, values = _TYPES[name]
    result, _ = scan(tmp_path, Role.TIME, arrow_type, values)
    expected: list[float] = [float(value) if name not in _CLOCKS else 0.0 for value in values if name not in _CLOCKS]
    if name.startswith("date"):
        expected = [datetime(d.year, d.month, d.day, tzinfo=UTC).timestamp() for d in _DAYS]
    elif "ns" in name:
        expected = [seconds + 0.123456789 for seconds in _SECONDS]
    elif name in _CLOCKS:
        expected = _SECONDS
    assert result.interactions.history_times()[0].tolist() == pytest.approx(expected, abs=1e-6)


_ATTRIBUTES: list[tuple[str, list[list[str]]]] = [
    ("int64", [["1"], ["2"], ["3"], ["4"]]),
    ("uint64", [["1"], ["2"], ["3"], [str(2**64 - 1)]]),
    ("halffloat", [["0.5"], ["1.5"], ["2.5"], ["3.5"]]),
    ("decimal128(5, 2)", [["1.10"], ["2.20"], ["3.30"], ["4.40"]]),
    ("decimal128(38, 0)", [["1"], ["2"], ["3"], ["4"]]),
    ("bool", [["true"], ["false"], ["true"], ["false"]]),
    ("null", [[], [], [], []]),
    ("date32[day]", [["2026-01-01"], ["2026-01-02"], ["2026-01-03"], ["2026-01-04"]]),
    ("timestamp[s]", [[f"2026-01-0{day} 12:00:00"] for day in (1, 2, 3, 4)]),
    ("timestamp[us, tz=UTC]", [[f"2026-01-0{day} 12:00:00+00:00"] for day in (1, 2, 3, 4)]),
    ("timestamp[ns]", [[f"2026-01-0{day} 12:00:00.123456789"] for day in (1, 2, 3, 4)]),
    ("list<item: string>", [["a", "b"], ["c|d", "e"], ["f"], []]),
    ("fixed_size_list<item: string>[2]", [["a", "b"], ["c|d", "e"], ["f"], []]),
    ("list<float>", [["0.1", "2"], [], [], ["0.5"]]),
    ("dictionary<string>", [["1"], ["2"], ["3"], ["4"]]),
]


@pytest.mark.parametrize(("name", "expected"), _ATTRIBUTES)
def test_attributes_of_every_type_are_texts(tmp_path: Path, name: str, expected: list[list[str]]) -> None:
    _, items = scan(tmp_path, Role.ATTRIBUTE, *_TYPES[name])
    assert [item.attributes.get("genre", []) for item in items] == expected


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (pa.array([2_932_897, None], pa.date32()), "10000-01-01"),
        (pa.array([2_932_897 * 86_400_000, None], pa.date64()), "10000-01-01"),
        (pa.array([2_932_897 * 86_400_000, None], pa.timestamp("ms")), "10000-01-01 00:00:00"),
        (pa.array([[2_932_897], None], pa.list_(pa.date32())), "10000-01-01"),
    ],
)
def test_attribute_may_be_a_date_beyond_the_calendar_of_python(tmp_path: Path, array: pa.Array, expected: str) -> None:
    cells = {"item_id": ["a", "b"], "text": ["x", "y"], "until": array}
    parquet.write_table(pa.table(cells), tmp_path / "items.parquet")
    items: list[Any] = []
    assert Scan(tmp_path, items.append, LoadOptions(needs_interactions=False)).issues.report() == ""
    assert [item.attributes for item in items] == [{"until": [expected]}, {}]


@pytest.mark.parametrize(
    "array", [pa.array([2**31 - 1, 0], pa.date32()), pa.array([-(2**62), 0], pa.timestamp("us", tz="UTC"))]
)
def test_date_beyond_every_format_is_named(tmp_path: Path, array: pa.Array) -> None:
    cells = {"item_id": ["a", "b"], "text": ["x", "y"], "until": array}
    parquet.write_table(pa.table(cells), tmp_path / "items.parquet")
    report = Scan(tmp_path, lambda _: None, LoadOptions(needs_interactions=False)).issues.report()
    assert f"{tmp_path / 'items.parquet'}, row 1: " in report
    assert "is a date or time outside the years that can be written" in report


def test_float32_has_the_shortest_decimal_form(tmp_path: Path) -> None:
    result, _ = scan(tmp_path, Role.RATING, pa.float32(), [0.1, 4.7, None, 2.3][:2] * 2)
    assert result.interactions.history_ratings()[0].tolist() == [0.1, 4.7, 0.1, 4.7]


def test_decimal_ids_are_refused_with_a_remedy(tmp_path: Path) -> None:
    result, _ = scan(tmp_path, Role.ID, pa.float64(), [1.0, 2.0, None, 4.0])
    assert (
        "column item_id has the type double, which cannot hold an id: cast it to string, or to int64"
        in result.issues.report()
    )
    assert "astype('Int64')" in result.issues.report()


@pytest.mark.parametrize("role", [Role.ID, Role.TEXT, Role.TIME])
def test_null_cell_is_named_as_missing(tmp_path: Path, role: Role) -> None:
    kinds = {Role.ID: pa.string(), Role.TEXT: pa.dictionary(pa.int8(), pa.string()), Role.TIME: pa.timestamp("ns")}
    values = [*_NANOSECONDS[:3], None] if role is Role.TIME else [*_TEXTS[:3], None]
    result, _ = scan(tmp_path, role, kinds[role], values)
    table, column = _COLUMNS[role]
    assert f"{tmp_path / table}.parquet, row 4: {column} is empty or missing" in result.issues.report()


def test_times_of_96_bits_reach_beyond_the_years_of_nanoseconds(tmp_path: Path) -> None:
    scan(tmp_path, Role.TIME, pa.timestamp("us"), _MOMENTS)
    path, late = tmp_path / "interactions.parquet", datetime(9999, 12, 31, tzinfo=UTC)
    table = parquet.read_table(path).drop(["timestamp"])
    times = pa.array([late.replace(tzinfo=None)] * 8, pa.timestamp("us"))
    parquet.write_table(table.append_column("timestamp", times), path, use_deprecated_int96_timestamps=True)
    assert Scan(tmp_path, lambda _: None).interactions.history_times()[0].tolist() == [late.timestamp()] * 4


def test_column_that_is_not_read_may_have_any_type(tmp_path: Path) -> None:
    scan(tmp_path, Role.TIME, pa.int64(), _NUMBERS)
    path = tmp_path / "interactions.parquet"
    extra = pa.array([{"x": "y"}] * 8, pa.struct({"x": pa.string()}))
    parquet.write_table(parquet.read_table(path).append_column("context", extra), path)
    assert Scan(tmp_path, lambda _: None).issues.report() == ""


def test_attribute_with_a_dot_in_its_name_is_read(tmp_path: Path) -> None:
    cells = {"item_id": ["a", "b"], "text": ["x", "y"], "genre.main": ["p", "q"], "genre": [{"main": "r"}] * 2}
    parquet.write_table(pa.table(cells), tmp_path / "items.parquet")
    items: list[Any] = []
    result = Scan(tmp_path, items.append, LoadOptions(needs_interactions=False))
    assert [item.attributes for item in items] == [{"genre.main": ["p"]}, {"genre.main": ["q"]}]
    assert "bad attribute column, 1 time: cast the column or remove it" in result.issues.report()
    assert result.profile().skipped == {"bad attribute column (emptied)": 1}
