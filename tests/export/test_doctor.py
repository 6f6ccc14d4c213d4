"""The command doctor: figures, issues and other names of columns; a large catalogue is not held in memory."""

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
from swiftrec.export.data.columns import similar_columns
from swiftrec.export.data.doctor import examine
from swiftrec.export.data.loader import load
from swiftrec.export.data.profile import RATINGS
from swiftrec.export.data.repeats import EXCLUDE, Repeats
from swiftrec.export.data.scan import LoadOptions
from swiftrec.export.errors import DataError
from tests.conftest import ROOT
from tests.export.catalogues import write_catalogue
from tests.export.command import run_export

_ITEMS = 200_000
_MAX_MB = {"csv": 90, "parquet": 190}  # measured: 61 and 135, of which about 75 are Arrow's buffers


def doctor(folder: Path) -> subprocess.CompletedProcess[str]:
    return run_export("doctor", str(folder))


def test_doctor_prints_figures_of_sound_data(tmp_path: Path) -> None:
    write_catalogue(tmp_path / "data", 60, "csv")
    result = doctor(tmp_path / "data")
    assert (result.returncode, result.stderr) == (0, "")
    for words in ("60, of which 60 have", "kind (50 values)", "6, of which 6 have", "20 to 20", "0.0%", "no issues"):
        assert words in result.stdout


def test_doctor_lists_every_issue_and_counts_what_would_be_skipped(tmp_path: Path) -> None:
    write_catalogue(tmp_path / "data", 60, "csv")
    with (tmp_path / "data" / "items.csv").open("a") as file:
        file.write("item-1,again,kind 1\nitem-x,,kind 1\n")
    with (tmp_path / "data" / "interactions.csv").open("a") as file:
        file.write("user-1,item-nowhere,5\nuser-1,item-1,noon\n")
    result = doctor(tmp_path / "data")
    assert (result.returncode, result.stderr) == (2, "")
    for words in ("items.csv, line 62: ", "items.csv, line 63: ", "interactions.csv, line 122: ", "line 123: "):
        assert words in result.stdout
    assert "1 duplicate item_id" in result.stdout
    assert "--on-error skip" in result.stdout


def test_doctor_shows_the_range_of_times_and_warns_if_it_is_suspicious(tmp_path: Path) -> None:
    folder = tmp_path / "data, with a comma"
    write_catalogue(folder, 60, "csv")
    result = doctor(folder)
    assert (result.returncode, result.stderr) == (0, "")
    assert "1970-01-01 to 1970-01-01, UTC" in result.stdout
    assert "timestamp is in the future" not in result.stdout
    with (folder / "interactions.csv").open("a") as file:
        file.write("user-1,item-1,1700000000000\nuser-1,item-2,9999-12-31\n")
    result = doctor(folder)
    assert (result.returncode, result.stderr) == (0, "")
    for words in (
        "1970-01-01 to 9999-12-31, UTC",
        "1 like milliseconds (first: line 122)",
        "1 timestamp is in the future, the latest 9999-12-31",
    ):
        assert f"warning: {folder / 'interactions.csv'}: " in result.stdout
        assert words in result.stdout


def test_doctor_names_a_missing_folder(tmp_path: Path) -> None:
    result = doctor(tmp_path / "nowhere")
    assert (result.returncode, result.stdout) == (2, "")
    assert f"{tmp_path / 'nowhere'}: no such folder" in result.stderr


def peak_mb(folder: Path, how: str) -> float:
    command = [sys.executable, "-m", "tests.export.catalogues", str(folder), how]
    return float(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()[0])


@pytest.mark.parametrize("suffix", _MAX_MB)
def test_reading_a_large_catalogue_takes_little_memory(tmp_path: Path, suffix: str) -> None:
    write_catalogue(tmp_path / "data", _ITEMS, suffix)
    assert peak_mb(tmp_path / "data", "stream") < _MAX_MB[suffix]
    assert peak_mb(tmp_path / "data", "all") > _MAX_MB[suffix]  # the control: the table in memory is caught


def rate(folder: Path, ratings: bool) -> None:
    path = folder / "interactions.csv"
    header, *rows = path.read_text().splitlines()
    path.write_text(
        "\n".join([f"{header},rating", *(f"{row},{n % 5 + 1 if ratings else ''}" for n, row in enumerate(rows))])
    )


@pytest.mark.parametrize("ratings", [True, False])
def test_doctor_names_the_loss_that_uses_ratings_when_there_are_ratings(tmp_path: Path, ratings: bool) -> None:
    write_catalogue(tmp_path / "data", 60, "csv")
    rate(tmp_path / "data", ratings)
    result = doctor(tmp_path / "data")
    assert (result.returncode, result.stderr) == (0, "")
    assert (RATINGS in result.stdout.splitlines()) == ratings
    assert ("1 to 5" in result.stdout) == ratings


def repeat(folder: Path, rows: int) -> None:
    """Write 8 different items of each of two users, and the first `rows` rows of each once more."""
    write_catalogue(folder, 60, "csv")
    histories = [[f"user-{u},item-{n + u},{n}" for n in range(8)] for u in range(2)]
    lines = ["user_id,item_id,timestamp", *(line for user in histories for line in [*user, *user[:rows]])]
    (folder / "interactions.csv").write_text("\n".join(lines))


@pytest.mark.parametrize(("choice", "words"), [("exclude", "leaves them out"), ("allow", "keeps them")])
def test_doctor_counts_repeated_interactions_and_names_the_effect_of_the_flag(
    tmp_path: Path, choice: Repeats, words: str
) -> None:
    repeat(tmp_path / "data", 3)
    console = Console(width=300, file=io.StringIO(), record=True)
    assert examine(tmp_path / "data", console, LoadOptions(repeats=choice)) == 0
    line = f"6 of the same user and item as an earlier one (--repeats {choice} {words}"
    assert line in console.export_text()


def test_doctor_does_not_mention_the_flag_when_nothing_repeats(tmp_path: Path) -> None:
    repeat(tmp_path / "data", 0)
    console = Console(width=300, file=io.StringIO(), record=True)
    examine(tmp_path / "data", console)
    assert "0 of the same user and item" in (shown := console.export_text())
    assert "--repeats" not in shown


def test_users_need_enough_different_items_unless_repeats_count(tmp_path: Path) -> None:
    repeat(tmp_path / "data", 0)
    rows = ["user_id,item_id,timestamp", *(f"user-{u},item-{n % 3},{n}" for u in range(2) for n in range(9))]
    (tmp_path / "data" / "interactions.csv").write_text("\n".join(rows))
    console = Console(width=300, file=io.StringIO(), record=True)
    assert examine(tmp_path / "data", console) == 2
    few = "found 0 (of 2 users); repeated ones count with --repeats allow only"
    assert few in console.export_text()
    assert examine(tmp_path / "data", console, LoadOptions(repeats="allow")) == 0


def test_doctor_prints_brackets_in_names_unchanged(tmp_path: Path) -> None:
    folder = tmp_path / "[bold]my data"
    folder.mkdir()
    (folder / "items.csv").write_text("item_id,text,[/b]kind\na,x,1\nb,y,2\n")
    console = Console(width=300, file=io.StringIO(), record=True)
    assert examine(folder, console) == 0
    shown = console.export_text()
    assert str(folder) in shown
    assert "[/b]kind (2 values)" in shown


Rows = list[dict[str, Any]]

_ITEMS_COLUMNS: Rows = [{"movieId": key, "overview": f"thing {key}", "genre": "x"} for key in "abcd"]
_EVENTS: Rows = [{"userId": user, "movieId": key, "ts": n} for user in "uv" for n, key in enumerate("abcd")]
_FLAGS = ["item_id=movieId", "text=overview", "user_id=userId", "timestamp=ts"]


def write(folder: Path, suffix: str, items: Rows = _ITEMS_COLUMNS, events: Rows = _EVENTS) -> None:
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
    return examine(
        folder, console, LoadOptions(needs_interactions=False, repeats=EXCLUDE, columns=columns)
    ), console.export_text()


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_suggested_flag_is_printed_and_works(tmp_path: Path, suffix: str) -> None:
    write(tmp_path, suffix)
    code, shown = examined(tmp_path)
    assert code == 2
    for flag in _FLAGS:
        name, _, column = flag.partition("=")
        assert f"column {name} is missing; {column} looks like it: --column {flag}" in shown
    code, shown = examined(tmp_path, *_FLAGS)
    assert code == 0
    assert f"swiftrec export --data {tmp_path} --column item_id=movieId --column text=overview " in shown
    (tmp_path / "out").mkdir()
    dataset = load(tmp_path, tmp_path / "out", LoadOptions(columns=_FLAGS)).dataset
    assert [(item.id, item.text, item.attributes) for item in dataset.items][1] == ("b", "thing b", {"genre": ["x"]})
    assert [history.tolist() for history in dataset.histories] == [[0, 1, 2, 3]] * 2


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_column_is_mapped_only_in_tables_with_it(tmp_path: Path, suffix: str) -> None:
    write(
        tmp_path,
        suffix,
        events=[{"user_id": r["userId"], "item_id": r["movieId"], "timestamp": 1 + n} for n, r in enumerate(_EVENTS)],
    )
    assert examined(tmp_path, "item_id=movieId", "text=overview")[0] == 0


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_two_columns_for_one_name_are_refused(tmp_path: Path, suffix: str) -> None:
    write(tmp_path, suffix, items=[row | {"text": "own"} for row in _ITEMS_COLUMNS])
    code, shown = examined(tmp_path, *_FLAGS)
    assert code == 2
    assert (
        "'text' occurs twice" if suffix == "jsonl" else "column text occurs twice (--column text=overview)"
    ) in shown


def test_flag_is_refused_if_no_table_has_its_column(tmp_path: Path) -> None:
    write(tmp_path, "csv")
    code, shown = examined(tmp_path, *_FLAGS, "title=nmae")
    assert code == 2
    assert f"{tmp_path}: --column title=nmae: no table has the column nmae" in shown


@pytest.mark.parametrize(
    ("name", "columns", "similar"),
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
def test_likely_columns_are_found(name: str, columns: list[str], similar: list[str]) -> None:
    assert similar_columns(name, columns) == similar


def test_column_with_a_blank_is_quoted_in_the_suggestion(tmp_path: Path) -> None:
    write(tmp_path, "jsonl", items=[{"Item ID": row["movieId"], "text": "x"} for row in _ITEMS_COLUMNS])
    assert "--column item_id='Item ID'" in examined(tmp_path)[1]


@pytest.mark.parametrize("given", ["movieId", "id=movieId", "item_id="])
def test_malformed_column_flag_is_refused(tmp_path: Path, given: str) -> None:
    result = run_export("doctor", str(tmp_path), "--column", given)
    assert result.returncode == 2
    assert f"{given!r} is not NAME=COLUMN, where NAME is one of item_id, text, title, user_id" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_column_flag_can_be_repeated_and_set_by_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ["--data", str(tmp_path), "--column", "item_id=a", "--column", "text=b"]
    assert ExportSettings(_cli_parse_args=flags).column == ["item_id=a", "text=b"]
    monkeypatch.setenv("SWIFTREC_EXPORT_COLUMN", "item_id=a,text=b")
    assert ExportSettings(_cli_parse_args=flags[:2]).column == ["item_id=a", "text=b"]


def test_export_refuses_a_missing_column_with_a_suggestion(tmp_path: Path) -> None:
    write(tmp_path, "csv")
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match="movieId looks like it: --column item_id=movieId"):
        load(tmp_path, tmp_path / "out")
