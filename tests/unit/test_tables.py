"""A user's own data: three formats read alike, and each mistake is named with its row."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from export.data.tables import read
from export.errors import DataError

_ITEMS = [
    {"item_id": "a", "text": "Alpha, the first", "genre": "x|y"},
    {"item_id": "b", "text": "Beta", "genre": ""},
]
_EVENTS = [
    {"user_id": "u", "item_id": "b", "timestamp": "2"},
    {"user_id": "u", "item_id": "a", "timestamp": "1"},
    {"user_id": "v", "item_id": "a", "timestamp": "1"},
]


def write(folder: Path, name: str, rows: list[dict[str, str]], suffix: str) -> None:
    path = folder / f"{name}.{suffix}"
    if suffix == "csv":
        lines = [",".join(rows[0]), *(",".join(f'"{v}"' for v in row.values()) for row in rows)]
        path.write_text("\n".join(lines))
    elif suffix == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        parquet.write_table(pa.Table.from_pylist(rows), path)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_formats_read_alike(tmp_path: Path, suffix: str) -> None:
    write(tmp_path, "items", _ITEMS, suffix)
    write(tmp_path, "interactions", _EVENTS, suffix)
    dataset = read(tmp_path)
    assert [item.text for item in dataset.items] == ["Alpha, the first", "Beta"]
    assert [item.attributes for item in dataset.items] == [{"genre": ["x", "y"]}, {}]
    assert [history.tolist() for history in dataset.histories] == [[0, 1], [0]]


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("items", {"item_id": "a", "text": "again"}, "row 3: item_id 'a' is there twice"),
        ("items", {"item_id": "c", "text": " "}, "row 3: column text is missing or empty"),
        ("interactions", {"user_id": "u", "item_id": "z", "timestamp": "1"}, "row 4: item_id 'z' is not in items"),
        (
            "interactions",
            {"user_id": "u", "item_id": "a", "timestamp": "noon"},
            "row 4: timestamp 'noon' is not a number",
        ),
    ],
)
def test_mistake_is_named_with_its_row(tmp_path: Path, name: str, row: dict[str, str], message: str) -> None:
    write(tmp_path, "items", [*_ITEMS, row] if name == "items" else _ITEMS, "jsonl")
    write(tmp_path, "interactions", [*_EVENTS, row] if name == "interactions" else _EVENTS, "jsonl")
    with pytest.raises(DataError, match=message):
        read(tmp_path)


def test_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no items.csv, items.jsonl or items.parquet"):
        read(tmp_path)
