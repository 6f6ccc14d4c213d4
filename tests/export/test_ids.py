"""Ids and literals: ids are kept byte for byte or refused by name; lists and bytes written as text are values."""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from swiftrec.export.data.dataset import Dataset
from swiftrec.export.data.loader import load
from swiftrec.export.data.popularity import interaction_counts
from swiftrec.export.data.scan import Scan
from swiftrec.export.ids import MAX_ID_BYTES, id_fault
from swiftrec.export.literals import parse_literal
from swiftrec.export.stages.package import write_items
from swiftrec.server.catalogue.catalogue import ITEMS, VECTORS, Catalogue
from swiftrec.server.domain import ItemEvent, Recommendation, Strategy, Timings
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from swiftrec.server.worker.respond import to_response
from swiftrec.server.worker.validate import InputLimits, to_request
from tests.export.test_loader import collect, refused, write

FORMATS = ["csv", "jsonl", "parquet"]
_BLANKS = "\u00a0\u1680\u2000\u2003\u2009\u200a\u2028\u2029\u202f\u205f\u3000"  # every white space but controls
_TELLING = [" ", "  ", "|", ",", '"', "'", ";", "\\", "text:", "\ufeff", "\u200b", "e\u0301", "\U0001d11e", *_BLANKS]
_parts = st.one_of(
    st.sampled_from(_TELLING), st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=4)
)
_sound = st.lists(_parts, min_size=1, max_size=8).map("".join).filter(lambda text: id_fault(text) is None)
_controls = [chr(n) for n in (*range(0x20), *range(0x7F, 0xA0))]
_slow = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def write_rows(path: Path, names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write rows of texts in the format that the path ends with."""
    if path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([names, *rows])
    elif path.suffix == ".jsonl":
        lines = [json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=len(row[0]) % 2 == 0) for row in rows]
        path.write_bytes("\n".join(lines).encode())
    else:
        parquet.write_table(pa.table([list(column) for column in zip(*rows, strict=True)], list(names)), path)


def write_tables(folder: Path, suffix: str, items: Sequence[str], users: Sequence[str]) -> None:
    """Items called `items`; each user takes every item."""
    write_rows(folder / f"items.{suffix}", ["item_id", "text"], [[item, f"thing {n}"] for n, item in enumerate(items)])
    rows = [[user, item, str(time)] for user in users for time, item in enumerate(items)]
    write_rows(folder / f"interactions.{suffix}", ["user_id", "item_id", "timestamp"], rows)


def served(dataset: Dataset, folder: Path) -> Catalogue:
    """The catalogue that the server loads from the files of a bundle; item n has the vector (n, 1)."""
    write_items(dataset.items, interaction_counts(dataset.histories, len(dataset.items)).tolist(), folder / ITEMS)
    numbers = np.arange(len(dataset.items), dtype=np.float32)
    np.save(folder / VECTORS, np.stack([numbers, np.ones_like(numbers)], axis=1))
    return Catalogue.load(folder, 0)


def asked_for(item_id: str) -> str:
    """The id that the server reads from a request for `item_id`."""
    message = pb.RecommendRequest(history=[pb.Event(item_id=item_id)])
    message.filter.allowed_item_ids.append(item_id)
    request = to_request(pb.RecommendRequest.FromString(message.SerializeToString()), InputLimits())
    (event,) = request.history
    assert isinstance(event, ItemEvent)
    assert request.conditions.allowed == {event.item_id}
    return event.item_id


def answered(catalogue: Catalogue, position: int) -> str:
    """The id that a client reads from an answer with the item at `place`."""
    answer = Recommendation([(catalogue.items[position], 1.0)], [], Strategy.MODEL, 1, Timings())
    return pb.RecommendResponse.FromString(to_response(answer, "b", 1).SerializeToString()).items[0].item_id


@pytest.mark.parametrize("suffix", FORMATS)
def test_accepted_ids_are_kept_byte_for_byte(suffix: str) -> None:
    @_slow
    @given(st.lists(_sound, min_size=4, max_size=8, unique=True), st.lists(_sound, min_size=2, max_size=3, unique=True))
    def holds(items: list[str], users: list[str]) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            write_tables(folder, suffix, items, users)
            (folder / "out").mkdir()
            dataset = load(folder, folder / "out").dataset
            dataset.save(folder / "out")
            catalogue = served(Dataset.load(folder / "out"), folder)
            assert [history.tolist() for history in dataset.histories] == [[*range(len(items))]] * len(users)
            for n, item in enumerate(items):
                position = catalogue.position(asked_for(item))
                assert position == n
                assert catalogue.event_vector(position).tolist() == [n, 1]
                assert answered(catalogue, n) == item

    holds()


@pytest.mark.parametrize("suffix", FORMATS)
def test_user_ids_are_kept_byte_for_byte(tmp_path: Path, suffix: str) -> None:
    users = ["u", " u", "u ", "u\u00a0", "u  v", "u v", "1", "1.0", "01"]
    write_tables(tmp_path, suffix, ["a", "b", "c", "d"], users)
    scan = Scan(tmp_path, lambda _: None)
    assert (scan.interactions.user_ids, scan.issues.report()) == (users, "")


_WRONG = st.one_of(
    st.tuples(_sound, st.sampled_from(_controls), _sound).map("".join),
    st.text(st.sampled_from(" \u00a0\u2009\u2028\u3000"), min_size=1, max_size=5),
    st.integers(MAX_ID_BYTES + 1, 2 * MAX_ID_BYTES).map("x".__mul__),
    st.integers(MAX_ID_BYTES // 2 + 1, MAX_ID_BYTES).map("\u00e9".__mul__),
)


@pytest.mark.parametrize("suffix", FORMATS)
def test_invalid_id_is_reported_with_its_line(suffix: str) -> None:
    @_slow
    @given(_WRONG)
    def holds(wrong: str) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            write_tables(folder, suffix, ["a", wrong, "c", "d", "e"], ["u", "v", wrong])
            scan = Scan(folder, lambda _: None)
            report, line = scan.issues.report(), {"csv": "line 3", "jsonl": "line 2", "parquet": "row 2"}[suffix]
            assert f"items.{suffix}, {line}: item_id " in report
            assert str(id_fault(wrong)) in report
            assert f"interactions.{suffix}, " in report
            assert ": user_id " in report
            assert scan.interactions.user_ids == ["u", "v"]

    holds()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "is empty or white space only"),
        ("\u2003", "is empty or white space only"),
        ("a\tb", "holds the control character U+0009"),
        ("a\x85", "holds the control character U+0085"),
        ("a\x00", "holds the control character U+0000"),
        ("\ud800", "holds half of a surrogate pair, which is not Unicode text"),
        ("\u00e9" * 257, "has 514 bytes as UTF-8, at most 512 are allowed"),
        ("\u00e9" * 256, None),
        ("a  b", None),
        (" a ", None),
        ("a\u00a0b|c,d", None),
    ],
)
def test_reason_is_given_for_each_invalid_id(text: str, fault: str | None) -> None:
    assert id_fault(text) == fault


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
    loaded = collect(tmp_path)
    assert loaded.dataset.items[0].attributes == ({"genre": values} if values else {})
    (warning,) = loaded.profile.warnings
    kind = "bytes" if cell.startswith("b") else "lists"
    assert warning.startswith(f"{path}: {kind} written as text in 1 cell of genre (first: ")
    assert warning.endswith(f"{cell!r}): read as {kind}")


@pytest.mark.parametrize(
    "cell",
    ["[REC]", "[deleted]", "(500) Days", "['a'", "{x}", "b'", "blue", "[a, b]", "[1] [2]", "(1995)", "'a'", "['a'] x"],
)
def test_text_other_than_a_list_is_kept_unchanged(tmp_path: Path, cell: str) -> None:
    assert parse_literal(cell) is cell
    write(tmp_path, "items", items(title=cell, genre=cell))
    write(tmp_path, "interactions", _EVENTS)
    loaded = collect(tmp_path)
    assert (loaded.dataset.items[0].title, loaded.dataset.items[0].attributes) == (cell, {"genre": [cell]})
    assert loaded.profile.warnings == ()


@pytest.mark.parametrize("cell", ["[{'id': 16, 'name': 'Animation'}]", "{'id': 16}", "[['a'], ['b']]"])
def test_objects_written_as_text_are_refused_like_json_objects(tmp_path: Path, cell: str) -> None:
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
    loaded = collect(tmp_path)
    assert (loaded.dataset.items[0].title, loaded.dataset.items[2].text) == ("Amélie", "Amélie")
    assert loaded.dataset.users == [{"city": "Lyon"}] * 2
    assert [w.partition(": ")[2].partition(" (")[0] for w in loaded.profile.warnings] == [
        "bytes written as text in 1 cell of title",
        "bytes written as text in 1 cell of text",
        "bytes written as text in 2 cells of city",
    ]


@pytest.mark.parametrize("cell", ["['one', 'two']", "b'\\xff'", "{'en': 'a'}"])
@pytest.mark.parametrize("column", ["text", "title"])
def test_list_in_a_text_column_is_refused(tmp_path: Path, column: str, cell: str) -> None:
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
def test_id_that_is_a_literal_is_refused(tmp_path: Path, key: str, fault: str | None) -> None:
    assert id_fault(key) == fault
    write(tmp_path, "items", [*items(), {"item_id": key, "text": "third"}])
    write(tmp_path, "interactions", _EVENTS)
    if fault is None:
        assert [item.id for item in collect(tmp_path).dataset.items] == ["a", "b", key]
    else:
        assert f"items.jsonl, line 3: item_id {key!r} {fault}" in refused(tmp_path)
