"""Columns under other names: the guess that doctor prints, and `--column` in every format."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet
from rich.console import Console

from swiftrec.export.config import ExportSettings
from swiftrec.export.data.columns import candidates
from swiftrec.export.data.doctor import examine
from swiftrec.export.data.loader import read
from swiftrec.export.errors import DataError
from tests.conftest import ROOT

Rows = list[dict[str, Any]]

_ITEMS: Rows = [{"movieId": key, "overview": f"thing {key}", "genre": "x"} for key in "abcd"]
_EVENTS: Rows = [{"userId": user, "movieId": key, "ts": n} for user in "uv" for n, key in enumerate("abcd")]
_FLAGS = ["item_id=movieId", "text=overview", "user_id=userId", "timestamp=ts"]


def write(folder: Path, suffix: str, items: Rows = _ITEMS, events: Rows = _EVENTS) -> None:
    for name, rows in (("items", items), ("interactions", events)):
        path = folder / f"{name}.{suffix}"
        if suffix == "csv":
            path.write_text("\n".join([",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]))
        elif suffix == "jsonl":
            path.write_text("\n".join(map(json.dumps, rows)))
        else:
            parquet.write_table(pa.Table.from_pylist(rows), path)


def examined(folder: Path, *columns: str) -> tuple[int, str]:
    console = Console(width=400, file=io.StringIO(), record=True)
    return examine(folder, console, columns=columns), console.export_text()


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_guess_is_printed_and_works_as_it_stands(tmp_path: Path, suffix: str) -> None:
    write(tmp_path, suffix)
    code, shown = examined(tmp_path)
    assert code == 2
    for flag in _FLAGS:
        name, _, column = flag.partition("=")
        assert f"column {name} is missing; {column} looks like it: --column {flag}" in shown
    code, shown = examined(tmp_path, *_FLAGS)
    assert code == 0
    assert "EXPORT_FLAGS='--column item_id=movieId --column text=overview" in shown
    (tmp_path / "out").mkdir()
    found = read(tmp_path, tmp_path / "out", columns=_FLAGS).dataset
    assert [(item.id, item.text, item.attributes) for item in found.items][1] == ("b", "thing b", {"genre": ["x"]})
    assert [history.tolist() for history in found.histories] == [[0, 1, 2, 3]] * 2


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_column_is_mapped_only_in_tables_that_have_it(tmp_path: Path, suffix: str) -> None:
    write(
        tmp_path,
        suffix,
        events=[{"user_id": r["userId"], "item_id": r["movieId"], "timestamp": 1 + n} for n, r in enumerate(_EVENTS)],
    )
    assert examined(tmp_path, "item_id=movieId", "text=overview")[0] == 0


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_two_columns_for_one_name_are_refused(tmp_path: Path, suffix: str) -> None:
    write(tmp_path, suffix, items=[row | {"text": "own"} for row in _ITEMS])
    code, shown = examined(tmp_path, *_FLAGS)
    assert code == 2
    assert (
        "'text' is there twice" if suffix == "jsonl" else "column text is there twice (--column text=overview)"
    ) in shown


def test_flag_whose_column_no_table_has_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "csv")
    code, shown = examined(tmp_path, *_FLAGS, "title=nmae")
    assert code == 2
    assert f"{tmp_path}: --column title=nmae: no table has the column nmae" in shown


@pytest.mark.parametrize(
    ("name", "columns", "found"),
    [
        ("item_id", ["user_id", "asin", "text"], ["asin"]),
        ("item_id", ["wine_id", "customer_id"], ["wine_id"]),
        ("item_id", ["item_id:token", "movie_title:token_seq"], ["item_id:token"]),
        ("user_id", ["reviewerID", "asin"], ["reviewerID"]),
        ("text", ["item_id", "title"], ["title"]),
        ("timestamp", ["rating", "unixReviewTime"], ["unixReviewTime"]),
        ("user_id", ["a", "b"], []),
        ("text", ["Description", "plot", "name"], ["Description", "plot"]),
    ],
)
def test_likely_columns_are_found(name: str, columns: list[str], found: list[str]) -> None:
    assert candidates(name, columns) == found


def test_column_with_a_blank_is_quoted_in_the_guess(tmp_path: Path) -> None:
    write(tmp_path, "jsonl", items=[{"Item ID": row["movieId"], "text": "x"} for row in _ITEMS])
    assert "--column item_id='Item ID'" in examined(tmp_path)[1]


@pytest.mark.parametrize("given", ["movieId", "id=movieId", "item_id="])
def test_flag_that_maps_nothing_is_refused(tmp_path: Path, given: str) -> None:
    command = [sys.executable, "-m", "swiftrec.export", "doctor", str(tmp_path), "--column", given]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert f"{given!r} is not NAME=COLUMN, where NAME is one of item_id, text, title, user_id" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_flag_can_be_given_again_and_by_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ["--data", str(tmp_path), "--column", "item_id=a", "--column", "text=b"]
    assert ExportSettings(_cli_parse_args=flags).column == ["item_id=a", "text=b"]
    monkeypatch.setenv("SWIFTREC_EXPORT_COLUMN", "item_id=a,text=b")
    assert ExportSettings(_cli_parse_args=flags[:2]).column == ["item_id=a", "text=b"]


def test_export_refuses_a_missing_column_with_the_guess(tmp_path: Path) -> None:
    write(tmp_path, "csv")
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match="movieId looks like it: --column item_id=movieId"):
        read(tmp_path, tmp_path / "out")
