"""The order of interactions: a fake one is refused, and without order nothing depends on which event came first."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from swiftrec.export.config import ExportSettings
from swiftrec.export.data.caveats import few_users, short_histories, tied_times
from swiftrec.export.data.dataset import Dataset
from swiftrec.export.data.doctor import examine
from swiftrec.export.data.loader import Scan
from swiftrec.export.data.order import Order
from swiftrec.export.data.split import Split, leave_one_out
from swiftrec.export.data.text_variants import Phrase, Texts
from swiftrec.export.evaluate.baselines import RECENT_POPULARITY, fit_baselines
from swiftrec.export.stages.order import STAGES
from swiftrec.export.stages.runner import Job
from swiftrec.export.train.training_data import World
from tests.export.tiny import dataset


def write(folder: Path, times: Sequence[object], *, column: bool = True) -> Path:
    """Items a to d; one user for every four times, who takes a to d."""
    items = [{"item_id": name, "text": name} for name in "abcd"]
    rows = [{"user_id": n // 4, "item_id": "abcd"[n % 4], "timestamp": time} for n, time in enumerate(times)]
    if not column:
        rows = [{name: cell for name, cell in row.items() if name != "timestamp"} for row in rows]
    (folder / "items.jsonl").write_text("\n".join(map(json.dumps, items)))
    (folder / "interactions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "interactions.jsonl"


def examined(folder: Path, order: Order = "time") -> tuple[int, str]:
    console = Console(width=300, file=io.StringIO(), record=True)
    return examine(folder, console, order=order), console.export_text()


_FAKE = [
    ([0] * 8, "column timestamp is 0 in every row"),
    ([None] * 8, "column timestamp is empty in every row"),
    ([7] * 4 + [9] * 4, "column timestamp has one time for each user, so it does not say which interaction was first"),
]


@pytest.mark.parametrize(("times", "found"), _FAKE)
def test_doctor_names_the_column_that_is_no_order_and_the_remedy(
    tmp_path: Path, times: list[object], found: str
) -> None:
    path = write(tmp_path, times)
    code, shown = examined(tmp_path)
    assert code == 2
    assert f"{path}: {found}" in shown
    assert "no order of events, 1 time: " in shown
    assert "--order none trains without order, --order file takes the order of the rows" in shown
    for order in ("none", "file"):
        code, shown = examined(tmp_path, order)
        assert code == 0
        assert f"ready for make export DATA=... EXPORT_FLAGS='--order {order}'" in shown
        assert f"(--order {order})" in shown


def test_range_of_times_is_none_if_no_row_has_one(tmp_path: Path) -> None:
    write(tmp_path, [None] * 8)
    _, shown = examined(tmp_path)
    assert [line.split()[3] for line in shown.splitlines() if line.startswith("│ times ")] == ["none"]
    write(tmp_path, [0] * 8)
    assert "1970-01-01" in examined(tmp_path)[1]  # control


def test_one_user_whose_events_differ_in_time_is_an_order(tmp_path: Path) -> None:
    write(tmp_path, [7, 7, 7, 8, 9, 9, 9, 9])
    assert Scan(tmp_path, lambda _: None).mistakes.report() == ""


def test_missing_column_of_times_is_refused_with_both_remedies(tmp_path: Path) -> None:
    write(tmp_path, [0] * 8, column=False)
    code, shown = examined(tmp_path)
    assert code == 2
    assert "column timestamp is missing; if there are no times, --order none trains without order" in shown
    assert examined(tmp_path, "none")[0] == examined(tmp_path, "file")[0] == 0


def test_order_of_the_file_is_that_of_the_rows(tmp_path: Path) -> None:
    write(tmp_path, [4, 3, 2, 1] * 2)
    by_order = {order: Scan(tmp_path, lambda _: None, order=order).events.histories() for order in ("time", "file")}
    assert [row.tolist() for row in by_order["time"]] == [[3, 2, 1, 0]] * 2
    assert [row.tolist() for row in by_order["file"]] == [[0, 1, 2, 3]] * 2


@pytest.mark.parametrize(("times", "share"), [([1, 1, 1, 2], "75%"), ([1, 1, 2, 2], "100%"), ([1, 2, 3, 4], "")])
def test_doctor_warns_of_mostly_tied_times_with_the_share(tmp_path: Path, times: list[int], share: str) -> None:
    write(tmp_path, times * 2)
    code, shown = examined(tmp_path)
    warning = f"warning: {share} of the events share their timestamp with another event of the same user"
    assert (code, warning in shown) == (0, bool(share))


def test_rows_that_are_written_twice_are_not_tied(tmp_path: Path) -> None:
    path = write(tmp_path, [1, 2, 3, 4] * 2)
    path.write_text("\n".join([path.read_text()] * 2))
    assert Scan(tmp_path, lambda _: None).events.tied() == 0


def test_few_ties_are_not_warned_of() -> None:
    assert tied_times(0.49) == []


@pytest.mark.parametrize(("users", "half"), [(91, "+-0.051"), (499, "+-0.022")])
def test_few_users_are_warned_of_with_the_interval(users: int, half: str) -> None:
    (warning,) = few_users(users)
    assert f"only {users} users have enough events to test on" in warning
    assert f"NDCG@10 will be about {half}" in warning
    assert few_users(500) == few_users(0) == []


def test_users_below_the_minimum_are_warned_of_with_what_happens_to_their_events() -> None:
    (warning,) = short_histories(np.array([1, 1, 2, 3, 3, 4, 9]))
    assert warning == (
        "5 of 7 users have fewer than 4 events and do not test: 8 events of 3 of these users only train, and 2 users "
        "with a single event are left out"
    )
    assert short_histories(np.array([1, 2, 3, 4, 5, 6])) == []  # half of them are not most


def unordered(users: int = 300) -> Dataset:
    """Every user takes items 0 to 8 in this order, rated by their number, before the order is given up."""
    made = dataset(users)
    histories = [np.arange(9, dtype=np.int64) for _ in range(users)]
    ratings, times = ([row.astype(np.float64) for row in histories] for _ in range(2))
    return replace(made, histories=histories, ratings=ratings, times=times).without_order()


def test_without_order_the_tested_items_are_drawn_at_random_and_the_same_again(tmp_path: Path) -> None:
    parts, again = leave_one_out(unordered(), cold_share=0), leave_one_out(unordered(), cold_share=0)
    for drawn in (parts.valid, parts.warm.wanted):
        assert np.bincount(drawn, minlength=9).min() > 300 / 9 / 3
    assert parts.valid.tolist() == again.valid.tolist()
    assert parts.warm.wanted.tolist() == again.warm.wanted.tolist()
    unordered().save(tmp_path)
    assert leave_one_out(Dataset.load(tmp_path), cold_share=0).order == "none"


def test_ratings_stay_beside_their_events_without_order() -> None:
    made = unordered()
    assert all((row == rated).all() for row, rated in zip(made.histories, made.ratings, strict=True))


def world(order: Order) -> World:
    texts = Texts([[item.text for item in dataset().items]] * 4, [Phrase("river", [0, 1, 2])])
    made = unordered(20)
    return World(replace(leave_one_out(made, cold_share=0), order=order), texts, texts, None)


def windows_of(made: World, seed: int, epochs: int = 2) -> list[list[list[int]]]:
    """The inputs of each window, by epoch, sorted by their items."""
    rng = np.random.default_rng(seed)
    return [
        sorted([row.tolist() for batch in made.epoch(16, 4, rng) for row in batch.windows.items]) for _ in range(epochs)
    ]


def test_windows_are_shuffled_in_each_epoch_without_order_only() -> None:
    first, second = windows_of(world("none"), 1)
    assert first != second
    assert windows_of(world("none"), 1) == [first, second]
    first, second = windows_of(world("time"), 1)
    assert first == second


def test_worth_stays_beside_its_target_when_windows_are_shuffled() -> None:
    made = world("none")
    worth = dict(zip(np.concatenate(made.split.train).tolist(), np.concatenate(made.split.worth).tolist(), strict=True))
    for batch in made.epoch(16, 4, np.random.default_rng(1)):
        there = batch.windows.targets >= 0
        expected = [worth[n] for n in batch.windows.targets[there].tolist()]
        assert batch.windows.worth[there].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("order", ["none", "time"])
def test_what_does_not_depend_on_the_order_is_counted_once_for_all_epochs(
    order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = world(order)
    windows_of(made, 1, epochs=1)
    monkeypatch.setattr("swiftrec.export.train.training_data.QuerySampler", None)  # to be made again is an error
    monkeypatch.setattr("swiftrec.export.train.training_data.LoneQuerySampler", None)
    monkeypatch.setattr("swiftrec.export.train.training_data.Negatives", None)
    monkeypatch.setattr("swiftrec.export.train.training_data.Among", None)
    monkeypatch.setattr(np, "bincount", None)
    windows_of(made, 2, epochs=2)


@pytest.mark.parametrize("order", ["none", "time"])
def test_first_event_of_a_history_is_asked_for_without_order_only(order: Order) -> None:
    made = world(order)
    made = replace(made, split=replace(made.split, train=[np.arange(7)] * 20, worth=[]))
    rng = np.random.default_rng(0)
    wanted = {n for _ in range(3) for batch in made.epoch(16, 4, rng) for n in batch.queries.wanted.tolist()}
    assert wanted == set(range(0 if order == "none" else 1, 7))


def test_transitions_count_both_ways_without_order() -> None:
    known = [np.array([0, 1, 2])] * 6
    ordered, free = (fit_baselines(known, 4, order) for order in ("time", "none"))
    before = np.array([1])
    assert ordered["transitions"]([before])[0, 0] < 0.01 < ordered["transitions"]([before])[0, 2]
    assert free["transitions"]([before])[0, 0] == free["transitions"]([before])[0, 2] > 0.01
    ahead, back = (free["transitions"]([np.array(row)])[0, 1] for row in ([0, 2], [2, 0]))
    assert ahead == back
    assert (RECENT_POPULARITY in ordered, RECENT_POPULARITY in free) == (True, False)


def test_time_protocol_needs_the_order_of_time(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--protocol time needs the time of every interaction: not with --order none"):
        ExportSettings(_cli_parse_args=["--protocol", "time", "--order", "none"])
    with pytest.raises(ValueError, match="--order file and --column are about the tables of --data"):
        ExportSettings(_cli_parse_args=["--order", "file"])
    ExportSettings(_cli_parse_args=["--order", "file", "--data", str(tmp_path)])


def test_other_order_or_columns_make_the_data_stale(tmp_path: Path) -> None:
    keys = {
        Job(ExportSettings(artifacts=tmp_path, _cli_parse_args=["--data", str(tmp_path), *flags])).key(STAGES[0])
        for flags in ([], ["--order", "none"], ["--order", "file"], ["--column", "text=plot"])
    }
    assert len(keys) == 4


def split_of(order: Order) -> Split:
    return leave_one_out(replace(dataset(), order=order))


def test_split_has_the_order_of_its_data() -> None:
    assert [split_of(order).order for order in ("time", "file", "none")] == ["time", "file", "none"]
