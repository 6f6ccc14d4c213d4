"""Lists and bytes that were written as text count as what they denote; ids that are such are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from swiftrec.export.data.ids import id_fault
from swiftrec.export.data.literals import denoted
from tests.export.test_tables import collect, refused, write

_EVENTS: list[dict[str, Any]] = [
    {"user_id": user, "item_id": key, "timestamp": n} for user in "uv" for n, key in enumerate("abab")
]


def items(**cells: Any) -> list[dict[str, Any]]:  # noqa: ANN401 (cells of any kind)
    """Item a with these cells, and item b without."""
    return [{"item_id": "a", "text": "first", **cells}, {"item_id": "b", "text": "second", **dict.fromkeys(cells, "")}]


_LISTS = [
    ("['Action', 'Drama']", ["Action", "Drama"]),
    ('["a", "b"]', ["a", "b"]),
    (' ["rock|pop"] ', ["rock|pop"]),
    ("['Action' 'Drama'\n \"Film's\"]", ["Action", "Drama", "Film's"]),  # as NumPy writes it
    ("('b', 'a')", ["b", "a"]),
    ("{'b', 'a'}", ["b", "a"]),
    ("[b'caf\\xc3\\xa9', b'x']", ["café", "x"]),
    ("[1999, 7.5, True, None]", ["1999", "7.5", "true"]),
    ('["a", null, true]', ["a", "true"]),
    ("[]", []),
    ("b'Drama'", ["Drama"]),
]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize(("cell", "values"), _LISTS)
def test_list_written_as_text_is_a_list_of_an_attribute(
    tmp_path: Path, cell: str, values: list[str], suffix: str
) -> None:
    rows = items(genre=cell.replace('"', '""') if suffix == "csv" else cell)
    path = write(tmp_path, "items", rows, suffix)
    write(tmp_path, "interactions", _EVENTS)
    found = collect(tmp_path)
    assert found.dataset.items[0].attributes == ({"genre": values} if values else {})
    (warning,) = found.facts.warnings
    kind = "bytes" if cell.startswith("b") else "lists"
    assert warning.startswith(f"{path}: {kind} written as text in 1 cell of genre (first: ")
    assert warning.endswith(f"{cell!r}): read as {kind}")


@pytest.mark.parametrize(
    "cell",
    ["[REC]", "[deleted]", "(500) Days", "['a'", "{x}", "b'", "blue", "[a, b]", "[1] [2]", "(1995)", "'a'", "['a'] x"],
)
def test_text_that_denotes_no_list_stays_as_it_is(tmp_path: Path, cell: str) -> None:
    assert denoted(cell) is cell
    write(tmp_path, "items", items(title=cell, genre=cell))
    write(tmp_path, "interactions", _EVENTS)
    found = collect(tmp_path)
    assert (found.dataset.items[0].title, found.dataset.items[0].attributes) == (cell, {"genre": [cell]})
    assert found.facts.warnings == ()


@pytest.mark.parametrize("cell", ["[{'id': 16, 'name': 'Animation'}]", "{'id': 16}", "[['a'], ['b']]"])
def test_objects_written_as_text_are_refused_as_those_of_json_are(tmp_path: Path, cell: str) -> None:
    path = write(tmp_path, "items", items(genre=cell))
    write(tmp_path, "interactions", _EVENTS)
    report = refused(tmp_path)
    assert f'{path}, line 1: genre is "' in report
    assert "bad attribute cell, 1 time: give a text, a number or a list of texts" in report


def test_bytes_of_texts_titles_and_groups_are_decoded(tmp_path: Path) -> None:
    cell = "b'Am\\xc3\\xa9lie'"
    write(tmp_path, "items", [*items(title=cell), {"item_id": "c", "text": cell}])
    write(tmp_path, "interactions", _EVENTS)
    write(tmp_path, "users", [{"user_id": user, "city": "b'Lyon'"} for user in "uv"])
    found = collect(tmp_path)
    assert (found.dataset.items[0].title, found.dataset.items[2].text) == ("Amélie", "Amélie")
    assert found.dataset.users == [{"city": "Lyon"}] * 2
    assert [w.partition(": ")[2].partition(" (")[0] for w in found.facts.warnings] == [
        "bytes written as text in 1 cell of title",
        "bytes written as text in 1 cell of text",
        "bytes written as text in 2 cells of city",
    ]


@pytest.mark.parametrize("cell", ["['one', 'two']", "b'\\xff'", "{'en': 'a'}"])
@pytest.mark.parametrize("column", ["text", "title"])
def test_list_where_one_text_belongs_is_refused(tmp_path: Path, column: str, cell: str) -> None:
    write(tmp_path, "items", [*items(), {"item_id": "c", "text": "third", column: cell}])
    write(tmp_path, "interactions", _EVENTS)
    report = refused(tmp_path)
    assert f"items.jsonl, line 3: {column} is {cell!r} (a list, an object or bytes, written as text)" in report


def test_empty_list_is_an_empty_text(tmp_path: Path) -> None:
    write(tmp_path, "items", [*items(title="[]"), {"item_id": "c", "text": "[]"}])
    write(tmp_path, "interactions", _EVENTS)
    assert "items.jsonl, line 3: text is empty or missing" in refused(tmp_path)
    assert collect(tmp_path, skip=True).dataset.items[0].title == "first"


@pytest.mark.parametrize(
    ("key", "fault"),
    [
        ("b'12'", "is bytes written as text: write 12"),
        ("b'\\xff'", "is bytes written as text"),
        ("['12']", "is a list written as text: write one id"),
        ('["12"]', "is a list written as text: write one id"),
        ("[12]", None),
        ("b12", None),
        ("b'", None),
        ("[REC]", None),
    ],
)
def test_id_that_is_the_notation_of_another_is_refused(tmp_path: Path, key: str, fault: str | None) -> None:
    assert id_fault(key) == fault
    write(tmp_path, "items", [*items(), {"item_id": key, "text": "third"}])
    write(tmp_path, "interactions", _EVENTS)
    if fault is None:
        assert [item.id for item in collect(tmp_path).dataset.items] == ["a", "b", key]
    else:
        assert f"items.jsonl, line 3: item_id {key!r} {fault}" in refused(tmp_path)
