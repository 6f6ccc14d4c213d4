"""`doctor` checks without training, and reading a large catalogue does not take it into memory."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from swiftrec.export.data.doctor import examine
from swiftrec.export.data.profile import RATINGS
from tests.conftest import ROOT
from tests.export.catalogues import write_catalogue

_ITEMS = 200_000
_MAX_MB = {"csv": 90, "parquet": 190}  # measured: 61 and 135, of which about 75 are Arrow's buffers


def doctor(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "swiftrec.export", "doctor", str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_doctor_prints_figures_of_sound_data(tmp_path: Path) -> None:
    write_catalogue(tmp_path / "data", 60, "csv")
    result = doctor(tmp_path / "data")
    assert (result.returncode, result.stderr) == (0, "")
    for words in ("60, of which 60 have", "kind (50 values)", "6, of which 6 have", "20 to 20", "0.0%", "no mistakes"):
        assert words in result.stdout


def test_doctor_lists_every_mistake_and_says_what_would_be_skipped(tmp_path: Path) -> None:
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


def test_doctor_shows_the_range_of_times_and_warns_of_what_is_suspicious(tmp_path: Path) -> None:
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


def test_doctor_of_nothing_names_the_folder(tmp_path: Path) -> None:
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
def test_doctor_says_in_one_line_what_ratings_are_used_by_when_there_are_some(tmp_path: Path, ratings: bool) -> None:
    write_catalogue(tmp_path / "data", 60, "csv")
    rate(tmp_path / "data", ratings)
    result = doctor(tmp_path / "data")
    assert (result.returncode, result.stderr) == (0, "")
    assert (RATINGS in result.stdout.splitlines()) == ratings
    assert ("1 to 5" in result.stdout) == ratings


def repeat(folder: Path, rows: int) -> None:
    """Write 8 different items of each of two users, and the first `rows` rows of each once more."""
    write_catalogue(folder, 60, "csv")
    own = [[f"user-{u},item-{n + u},{n}" for n in range(8)] for u in range(2)]
    lines = ["user_id,item_id,timestamp", *(line for user in own for line in [*user, *user[:rows]])]
    (folder / "interactions.csv").write_text("\n".join(lines))


@pytest.mark.parametrize(("choice", "words"), [("exclude", "leaves them out"), ("allow", "keeps them")])
def test_doctor_counts_repeated_events_and_says_what_becomes_of_them(tmp_path: Path, choice: str, words: str) -> None:
    repeat(tmp_path / "data", 3)
    console = Console(width=300, file=io.StringIO(), record=True)
    assert examine(tmp_path / "data", console, choice) == 0  # type: ignore[arg-type]
    line = f"6 of the same user and item as an earlier one (--repeats {choice} {words}"
    assert line in console.export_text()


def test_doctor_of_data_without_repeats_does_not_speak_of_the_choice(tmp_path: Path) -> None:
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
    assert examine(tmp_path / "data", console, "allow") == 0


def test_doctor_shows_brackets_in_names_as_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "[bold]my data"
    folder.mkdir()
    (folder / "items.csv").write_text("item_id,text,[/b]kind\na,x,1\nb,y,2\n")
    console = Console(width=300, file=io.StringIO(), record=True)
    assert examine(folder, console) == 0
    shown = console.export_text()
    assert str(folder) in shown
    assert "[/b]kind (2 values)" in shown
