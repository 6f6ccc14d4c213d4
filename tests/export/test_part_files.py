"""Gzipped tables and folders of part files (as Spark writes them) give the same data as one plain file."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from swiftrec.export.data.order import BY_ROW, BY_TIME, Order
from swiftrec.export.data.scan import LoadOptions, Scan

Rows = list[dict[str, Any]]

_ITEMS: Rows = [{"item_id": name, "text": f"thing {name}"} for name in "abcd"]
_EVENTS: Rows = [{"user_id": u, "item_id": i, "timestamp": n} for u in "uv" for n, i in enumerate("abcdab")]


def content(rows: Rows, suffix: str) -> bytes:
    """The rows as the bytes of one file."""
    if suffix.endswith(".gz"):
        return gzip.compress(content(rows, suffix.removesuffix(".gz")))
    if suffix == ".csv":
        lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
        return ("\n".join(lines) + "\n").encode()
    if suffix in (".jsonl", ".json"):
        return "\n".join(map(json.dumps, rows)).encode()
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.Table.from_pylist(rows), sink)
    return bytes(sink.getvalue())


def write(folder: Path, name: str, rows: Rows, suffix: str) -> None:
    (folder / f"{name}{suffix}").write_bytes(content(rows, suffix))


def write_parts(folder: Path, rows: Rows, suffix: str, files: int = 3) -> Path:
    """As Spark writes: parts, some of them perhaps empty, their checksums and a mark that all are there."""
    folder.mkdir()
    for n in range(files):
        part = rows[n * len(rows) // files : (n + 1) * len(rows) // files]
        (folder / f"part-0000{n}-3f2a.c000{suffix}").write_bytes(content(part, suffix))
        (folder / f".part-0000{n}-3f2a.c000{suffix}.crc").write_bytes(b"crc")
    (folder / "_SUCCESS").touch()
    return folder


def report(folder: Path) -> str:
    return Scan(folder, lambda _: None).issues.report()


def histories(folder: Path, order: Order = BY_TIME) -> list[list[int]]:
    scan = Scan(folder, lambda _: None, LoadOptions(order=order))
    assert scan.issues.report() == ""
    return [history.tolist() for history in scan.interactions.histories()]


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".jsonl", ".jsonl.gz", ".parquet"])
def test_plain_and_gzipped_files_give_the_same_data(tmp_path: Path, suffix: str) -> None:
    write(tmp_path, "items", _ITEMS, suffix)
    write(tmp_path, "interactions", _EVENTS, suffix)
    assert histories(tmp_path) == [[0, 1, 2, 3, 0, 1]] * 2


@pytest.mark.parametrize("name", ["interactions", "interactions.csv", "interactions.parquet"])
@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".json", ".json.gz", ".jsonl", ".snappy.parquet"])
def test_folder_of_parts_is_read_in_the_order_of_names(tmp_path: Path, name: str, suffix: str) -> None:
    write(tmp_path, "items", _ITEMS, ".csv")
    tied = [row | {"timestamp": 5} for row in _EVENTS]
    write_parts(tmp_path / name, tied, suffix)
    assert histories(tmp_path, BY_ROW) == [[0, 1, 2, 3, 0, 1]] * 2


def test_every_table_may_be_a_folder(tmp_path: Path) -> None:
    write_parts(tmp_path / "items.parquet", _ITEMS, ".parquet", files=2)
    write_parts(tmp_path / "interactions", _EVENTS, ".csv")
    write_parts(tmp_path / "users", [{"user_id": u, "age": "old"} for u in "uv"], ".csv", files=2)
    write_parts(tmp_path / "texts.csv", [{"text": t} for t in "xyz"], ".csv")
    scan = Scan(tmp_path, lambda _: None)
    assert (scan.issues.report(), scan.texts, scan.groups) == ("", [*"xyz"], [{"age": "old"}] * 2)


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet"])
def test_empty_part_is_skipped(tmp_path: Path, suffix: str) -> None:
    write(tmp_path, "items", _ITEMS, ".csv")
    folder = write_parts(tmp_path / "interactions", _EVENTS, suffix)
    empty = folder / f"part-00001-x{suffix}"
    if suffix == ".parquet":
        parquet.write_table(pa.table({"nothing": pa.nulls(0)}), empty)
    else:
        empty.write_bytes(gzip.compress(b"") if suffix == ".csv.gz" else b"")
    assert histories(tmp_path) == [[0, 1, 2, 3, 0, 1]] * 2


@pytest.mark.parametrize(
    ("suffix", "second", "third"),
    [(".csv", "line 3", "line 4"), (".jsonl", "line 2", "line 3"), (".parquet", "row 2", "row 3")],
)
def test_issue_is_reported_with_its_part_and_line(tmp_path: Path, suffix: str, second: str, third: str) -> None:
    write(tmp_path, "interactions", _EVENTS, ".csv")
    rows = [*_ITEMS, {"item_id": "a", "text": "again"}, {"item_id": "b", "text": "again"}]
    write_parts(tmp_path / "items", rows, suffix, files=2)
    first_part, second_part = (f"part-0000{n}-3f2a.c000{suffix}" for n in range(2))
    location = f"{tmp_path / 'items' / second_part}, {third}"
    assert f"{location}: item_id 'b' occurs twice, first in {second} of {first_part}" in report(tmp_path)


# What is done to a sound folder `interactions` of CSV parts, and what must be said.
_WRONG: list[tuple[str, bytes | None, str]] = [
    ("_temporary/", None, "holds _temporary: the job that writes it is still running or has failed"),
    ("day=2026-01-01/", None, "holds the folder day=2026-01-01, needs only files: write it without partitionBy"),
    (
        "part-9.csv.bz2",
        b"x",
        "part-9.csv.bz2: not a part in CSV, JSON Lines (.jsonl, .json), either of them gzipped, or Parquet",
    ),
    ("part-9.json", b"{}", "holds parts of several formats: keep those of one"),
    (
        "part-9.csv",
        b"user_id,item_id,time\n",
        "part-9.csv: column timestamp is missing; time looks like it: --column timestamp=time",
    ),
    ("part-9.csv", b"u,a,5\n", "part-9.csv: column user_id is missing; the columns are: u, a, 5"),
    ("part-9.csv", b"user_id,item_id,timestamp,x\n", "part-9.csv: column x is not in every part"),
]


@pytest.mark.parametrize(("name", "data", "message"), _WRONG)
def test_folder_without_a_table_is_named(tmp_path: Path, name: str, data: bytes | None, message: str) -> None:
    write(tmp_path, "items", _ITEMS, ".csv")
    folder = write_parts(tmp_path / "interactions", _EVENTS, ".csv")
    if data is None:
        (folder / name).mkdir()
    else:
        (folder / name).write_bytes(data)
    assert message in report(tmp_path)


def test_folder_without_parts_is_named(tmp_path: Path) -> None:
    write(tmp_path, "items", _ITEMS, ".csv")
    (tmp_path / "interactions.parquet").mkdir()
    assert "interactions.parquet: holds no part files" in report(tmp_path)


def test_damaged_gzip_is_named(tmp_path: Path) -> None:
    write(tmp_path, "items", _ITEMS, ".csv")
    compressed = content(_EVENTS * 500, ".csv.gz")
    for damaged, message in (
        (
            compressed[: len(compressed) // 2],
            "interactions.csv.gz: Compressed file ended before the end-of-stream marker",
        ),
        (compressed[:-8] + bytes(8), "interactions.csv.gz: CRC check failed"),
        (b"user_id,item_id,timestamp\n", "interactions.csv.gz: Not a gzipped file"),
        (compressed[:20] + b"\xff" * 50 + compressed[70:], "interactions.csv.gz: "),
    ):
        (tmp_path / "interactions.csv.gz").write_bytes(damaged)
        assert message in report(tmp_path)


def test_gzip_without_its_suffix_is_named(tmp_path: Path) -> None:
    write(tmp_path, "items", _ITEMS, ".csv")
    (tmp_path / "interactions.csv").write_bytes(content(_EVENTS, ".csv.gz"))
    (line,) = [line for line in report(tmp_path).splitlines() if "interactions.csv" in line]
    assert line.endswith("interactions.csv: compressed by gzip: name it interactions.csv.gz")


@pytest.mark.parametrize(
    ("begin", "said"),
    [
        (b"PAR1\x15\x04", "holds Parquet: let its name end with .parquet alone"),
        (b"PK\x03\x04", "a zip archive, as Excel writes: save it as CSV, not compressed or by gzip"),
        ("user_id".encode("utf-16"), "UTF-16 or UTF-32, needs UTF-8"),
        ("user_id".encode("utf-32"), "UTF-16 or UTF-32, needs UTF-8"),
        ("user_id".encode("utf-16-le"), "not UTF-8 text: save it as UTF-8"),
        ("user_id".encode("utf-16-be"), "not UTF-8 text: save it as UTF-8"),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".jsonl.gz"])
def test_binary_content_is_refused_in_one_sentence(tmp_path: Path, suffix: str, begin: bytes, said: str) -> None:
    write(tmp_path, "items", _ITEMS, ".csv")
    path = tmp_path / f"interactions{suffix}"
    path.write_bytes(gzip.compress(begin) if suffix.endswith(".gz") else begin)
    (line,) = [line for line in report(tmp_path).splitlines() if str(path) in line and "at least" not in line]
    assert line.startswith(f"  {path}: ")
    assert line.endswith(said)
    assert line.isprintable()


@pytest.mark.parametrize(("log", "maker"), [("_delta_log", "Delta Lake"), (".hoodie", "Hudi")])
def test_folder_with_old_rows_beside_the_current_ones_is_refused(tmp_path: Path, log: str, maker: str) -> None:
    write(tmp_path, "items", _ITEMS, ".csv")
    write_parts(tmp_path / "interactions", _EVENTS, ".parquet")
    assert report(tmp_path) == ""
    (tmp_path / "interactions" / log).mkdir()
    assert f"{tmp_path / 'interactions'}: a table of {maker}, whose files also hold replaced" in report(tmp_path)


def test_damaged_parquet_is_reported_on_one_line(tmp_path: Path) -> None:
    """What is said of a damaged page header has several lines."""
    write(tmp_path, "items", _ITEMS, ".csv")
    undamaged = bytearray(content(_EVENTS, ".parquet"))
    undamaged[40:60] = b"\xff" * 20
    (tmp_path / "interactions.parquet").write_bytes(undamaged)
    heads = ("unreadable file, ", f"  {tmp_path / 'interactions.parquet'}")
    lines = report(tmp_path).splitlines()
    assert all(line.startswith(heads) for line in lines)
    assert "thrift" in lines[1]


def test_file_of_another_format_is_named(tmp_path: Path) -> None:
    write(tmp_path, "items", _ITEMS, ".csv")
    (tmp_path / "interactions.csv.zip").write_bytes(b"PK")
    (tmp_path / "interactions.tsv").write_bytes(b"")
    assert "; interactions.csv.zip, interactions.tsv cannot be read: convert it" in report(tmp_path)


def test_file_wins_over_a_folder_of_the_same_table(tmp_path: Path) -> None:
    write(tmp_path, "items", _ITEMS, ".csv")
    write(tmp_path, "interactions", _EVENTS, ".csv")
    (tmp_path / "items").mkdir()
    (tmp_path / "items" / "a.jpg").touch()
    assert report(tmp_path) == ""
    write_parts(tmp_path / "items.parquet", _ITEMS, ".parquet")
    assert "items.csv, items.parquet exist: keep one" in report(tmp_path)
