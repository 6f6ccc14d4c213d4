"""The order of interactions: by time, by row or none, and warnings about suspicious times."""

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
from swiftrec.export.data.dataset import Dataset
from swiftrec.export.data.doctor import examine
from swiftrec.export.data.interactions import InteractionLog
from swiftrec.export.data.order import Order
from swiftrec.export.data.profile import few_users, short_histories, tied_times
from swiftrec.export.data.queries import Phrase
from swiftrec.export.data.repeats import EXCLUDE
from swiftrec.export.data.scan import LoadOptions, Scan
from swiftrec.export.data.split import Split, leave_one_out
from swiftrec.export.data.text_variants import Texts
from swiftrec.export.data.times import TimeStatistics
from swiftrec.export.evaluate.baselines import RECENT_POPULARITY, fit_baselines
from swiftrec.export.job import Job
from swiftrec.export.stages.order import STAGES
from swiftrec.export.stages.runner import stage_key
from swiftrec.export.train.training_data import TrainingData
from tests.export.tiny import dataset
from tests.peak import peak_of


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
    return examine(folder, console, LoadOptions(repeats=EXCLUDE, order=order)), console.export_text()


_FAKE = [
    ([0] * 8, "column timestamp is 0 in every row"),
    ([None] * 8, "column timestamp is empty in every row"),
    ([7] * 4 + [9] * 4, "column timestamp has one time for each user, so it does not say which interaction was first"),
]


@pytest.mark.parametrize(("times", "reason"), _FAKE)
def test_doctor_refuses_times_without_order_and_names_the_remedy(
    tmp_path: Path, times: list[object], reason: str
) -> None:
    path = write(tmp_path, times)
    code, shown = examined(tmp_path)
    assert code == 2
    assert f"{path}: {reason}" in shown
    assert "no order of interactions, 1 time: " in shown
    assert "--order none trains without order, --order file takes the order of the rows" in shown
    for order in ("none", "file"):
        code, shown = examined(tmp_path, order)
        assert code == 0
        assert f"ready for swiftrec export --data {tmp_path} --order {order}\n" in shown
        assert f"(--order {order})" in shown


def test_range_of_times_is_none_when_no_row_has_a_time(tmp_path: Path) -> None:
    write(tmp_path, [None] * 8)
    _, shown = examined(tmp_path)
    assert [line.split()[3] for line in shown.splitlines() if line.startswith("│ times ")] == ["none"]
    write(tmp_path, [0] * 8)
    assert "1970-01-01" in examined(tmp_path)[1]  # control


def test_one_user_with_different_times_is_an_order(tmp_path: Path) -> None:
    write(tmp_path, [7, 7, 7, 8, 9, 9, 9, 9])
    assert Scan(tmp_path, lambda _: None).issues.report() == ""


def test_missing_column_of_times_is_refused_with_both_remedies(tmp_path: Path) -> None:
    write(tmp_path, [0] * 8, column=False)
    code, shown = examined(tmp_path)
    assert code == 2
    assert "column timestamp is missing; if there are no times, --order none trains without order" in shown
    assert examined(tmp_path, "none")[0] == examined(tmp_path, "file")[0] == 0


def test_order_file_keeps_the_order_of_rows(tmp_path: Path) -> None:
    write(tmp_path, [4, 3, 2, 1] * 2)
    by_order = {
        order: Scan(tmp_path, lambda _: None, LoadOptions(order=order)).interactions.histories()
        for order in ("time", "file")
    }
    assert [row.tolist() for row in by_order["time"]] == [[3, 2, 1, 0]] * 2
    assert [row.tolist() for row in by_order["file"]] == [[0, 1, 2, 3]] * 2


@pytest.mark.parametrize(("times", "share"), [([1, 1, 1, 2], "75%"), ([1, 1, 2, 2], "100%"), ([1, 2, 3, 4], "")])
def test_doctor_warns_of_mostly_tied_times_with_the_share(tmp_path: Path, times: list[int], share: str) -> None:
    write(tmp_path, times * 2)
    code, shown = examined(tmp_path)
    warning = f"warning: {share} of the interactions share their timestamp with another interaction of the same user"
    assert (code, warning in shown) == (0, bool(share))


def test_duplicate_rows_do_not_count_as_ties(tmp_path: Path) -> None:
    path = write(tmp_path, [1, 2, 3, 4] * 2)
    path.write_text("\n".join([path.read_text()] * 2))
    assert Scan(tmp_path, lambda _: None).interactions.tied_share == 0


def test_few_ties_give_no_warning() -> None:
    assert tied_times(0.49) == []


@pytest.mark.parametrize(("users", "half"), [(91, "+-0.051"), (499, "+-0.022")])
def test_few_users_give_a_warning_with_the_interval(users: int, half: str) -> None:
    (warning,) = few_users(users)
    assert f"only {users} users have enough interactions to test on" in warning
    assert f"NDCG@10 will be about {half}" in warning
    assert few_users(500) == few_users(0) == []


def test_short_histories_give_a_warning() -> None:
    (warning,) = short_histories(np.array([1, 1, 2, 3, 3, 4, 9]))
    assert warning == (
        "5 of 7 users have fewer than 4 interactions and are not tested: 8 interactions of 3 of these users are only "
        "trained on, and 2 users with a single interaction are left out"
    )
    assert short_histories(np.array([1, 2, 3, 4, 5, 6])) == []  # half of them are not the majority


def unordered(users: int = 300) -> Dataset:
    """Every user takes items 0 to 8 in this order, rated by their number, before the order is given up."""
    data = dataset(users)
    histories = [np.arange(9, dtype=np.int64) for _ in range(users)]
    ratings, times = ([row.astype(np.float64) for row in histories] for _ in range(2))
    return replace(data, histories=histories, ratings=ratings, times=times).without_order()


def test_test_items_are_sampled_deterministically_without_order(tmp_path: Path) -> None:
    parts, again = leave_one_out(unordered(), cold_share=0), leave_one_out(unordered(), cold_share=0)
    for drawn in (parts.valid, parts.warm.targets):
        assert np.bincount(drawn, minlength=9).min() > 300 / 9 / 3
    assert parts.valid.tolist() == again.valid.tolist()
    assert parts.warm.targets.tolist() == again.warm.targets.tolist()
    unordered().save(tmp_path)
    assert leave_one_out(Dataset.load(tmp_path), cold_share=0).order == "none"


def test_ratings_stay_with_their_interactions_without_order() -> None:
    data = unordered()
    assert all((row == rated).all() for row, rated in zip(data.histories, data.ratings, strict=True))


def world(order: Order) -> TrainingData:
    texts = Texts([[item.text for item in dataset().items]] * 4, [Phrase("river", [0, 1, 2])])
    data = unordered(20)
    return TrainingData(replace(leave_one_out(data, cold_share=0), order=order), texts, texts, None)


def windows_of(training_data: TrainingData, seed: int, epochs: int = 2) -> list[list[list[int]]]:
    """The inputs of each window, by epoch, sorted by their items."""
    rng = np.random.default_rng(seed)
    return [
        sorted([row.tolist() for batch in training_data.batches(16, 4, rng) for row in batch.windows.items])
        for _ in range(epochs)
    ]


def test_windows_are_shuffled_in_each_epoch_without_order_only() -> None:
    first, second = windows_of(world("none"), 1)
    assert first != second
    assert windows_of(world("none"), 1) == [first, second]
    first, second = windows_of(world("time"), 1)
    assert first == second


def test_relevance_stays_with_its_target_when_windows_are_shuffled() -> None:
    training_data = world("none")
    worth = dict(
        zip(
            np.concatenate(training_data.split.train).tolist(),
            np.concatenate(training_data.split.relevance).tolist(),
            strict=True,
        )
    )
    for batch in training_data.batches(16, 4, np.random.default_rng(1)):
        there = batch.windows.targets >= 0
        expected = [worth[n] for n in batch.windows.targets[there].tolist()]
        assert batch.windows.relevance[there].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("order", ["none", "time"])
def test_order_independent_counts_are_made_once(order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    training_data = world(order)
    windows_of(training_data, 1, epochs=1)
    monkeypatch.setattr("swiftrec.export.train.training_data.QuerySampler", None)  # to be made again is an error
    monkeypatch.setattr("swiftrec.export.train.training_data.LoneQuerySampler", None)
    monkeypatch.setattr("swiftrec.export.train.training_data.NegativeSampler", None)
    monkeypatch.setattr("swiftrec.export.train.training_data.Candidates", None)
    monkeypatch.setattr(np, "bincount", None)
    windows_of(training_data, 2, epochs=2)


@pytest.mark.parametrize("order", ["none", "time"])
def test_first_item_of_a_history_is_a_target_without_order_only(order: Order) -> None:
    training_data = world(order)
    training_data = replace(training_data, split=replace(training_data.split, train=[np.arange(7)] * 20, relevance=[]))
    rng = np.random.default_rng(0)
    targets = {
        n for _ in range(3) for batch in training_data.batches(16, 4, rng) for n in batch.queries.target.tolist()
    }
    assert targets == set(range(0 if order == "none" else 1, 7))


def test_transitions_are_symmetric_without_order() -> None:
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


def test_stage_data_is_stale_when_order_or_columns_change(tmp_path: Path) -> None:
    keys = {
        stage_key(Job(ExportSettings(artifacts=tmp_path, _cli_parse_args=["--data", str(tmp_path), *flags])), STAGES[0])
        for flags in ([], ["--order", "none"], ["--order", "file"], ["--column", "text=plot"])
    }
    assert len(keys) == 4


def split_of(order: Order) -> Split:
    return leave_one_out(replace(dataset(), order=order))


def test_split_has_the_order_of_its_data() -> None:
    assert [split_of(order).order for order in ("time", "file", "none")] == ["time", "file", "none"]


_NOW = 1_800_000_000.0  # 2027-01-15
_DAY = 86_400


def scan(folder: Path, times: list[object]) -> Scan:
    """One user for every four times, items a to d, at a clock that stands at `_NOW`."""
    items = [{"item_id": name, "text": name} for name in "abcd"]
    rows = [{"user_id": n // 4, "item_id": "abcd"[n % 4], "timestamp": time} for n, time in enumerate(times)]
    (folder / "items.jsonl").write_text("\n".join(map(json.dumps, items)))
    (folder / "interactions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return Scan(folder, lambda _: None, clock=lambda: _NOW)


def sound(count: int = 8, unit: int = 1) -> list[object]:
    return [(1_700_000_000 + 3_600 * n) * unit for n in range(count)]


def test_year_beyond_the_calendar_is_printed_in_short_form(tmp_path: Path) -> None:
    facts = scan(tmp_path, [*sound(), 1e300]).profile()
    assert "the year 3.16887e+283" in facts.times
    assert all(len(warning) < 400 for warning in facts.warnings)


@pytest.mark.parametrize(
    ("unit", "written"),
    [
        (1, ""),
        (10**3, ", written in milliseconds"),
        (10**6, ", written in microseconds"),
        (10**9, ", written in nanoseconds"),
    ],
)
def test_range_is_shown_as_dates_whatever_the_unit(tmp_path: Path, unit: int, written: str) -> None:
    profile = scan(tmp_path, sound(unit=unit)).profile()
    assert (profile.times, profile.warnings) == (f"2023-11-14 to 2023-11-15, UTC{written}", ())
    assert profile.rows()["times"] == profile.times


@pytest.mark.parametrize(
    "times",
    [
        [*range(8)],
        ["2023-11-14T22:13:20Z", "2023-11-14"] * 4,
        [-10_000_000_000, *sound(7)],
        [*sound(7), _NOW + _DAY],  # a local time that is taken for UTC
    ],
)
def test_sound_times_give_no_warning(tmp_path: Path, times: list[object]) -> None:
    assert scan(tmp_path, times).profile().warnings == ()


def test_mixed_units_give_a_warning_with_the_first_row_of_the_rare_one(tmp_path: Path) -> None:
    (warning,) = scan(tmp_path, [*sound(5), 1_700_000_000_000, 1_700_000_100_000, 1_700_000_000]).profile().warnings
    assert warning == (
        f"{tmp_path}/interactions.jsonl: timestamps are in several units: 6 look like seconds, 2 like milliseconds "
        "(first: line 6): histories are in a wrong order unless all are in one unit"
    )


def test_three_units_are_one_warning(tmp_path: Path) -> None:
    times = [*sound(6), 1_700_000_000 * 10**6, 1_700_000_000 * 10**9]
    (warning,) = scan(tmp_path, times).profile().warnings
    assert "1 like microseconds (first: line 7) and 1 like nanoseconds (first: line 8)" in warning


@pytest.mark.parametrize("time", [1_700_000_000, 1_700_000_000_000, "2023-11-14T22:13:20"])
def test_equal_times_do_not_count_as_order(tmp_path: Path, time: object) -> None:
    issues = scan(tmp_path, [time] * 8).issues
    written = time if isinstance(time, int) else 1_700_000_000
    assert issues.is_fatal
    assert (
        "no order of interactions, 1 time: write the times of the interactions, or choose another order: --order none "
        "trains without order, --order file takes the order of the rows\n"
        f"  {tmp_path}/interactions.jsonl: column timestamp is {written} (2023-11-14 22:13:20) in every row"
    ) == issues.report()


def test_future_time_gives_a_warning_with_its_first_row(tmp_path: Path) -> None:
    (warning,) = scan(tmp_path, [*sound(6), "2099-12-31", "2027-02-01"]).profile().warnings
    assert warning == (
        f"{tmp_path}/interactions.jsonl: 2 timestamps are in the future, the latest 2099-12-31 00:00:00 (first: line 7)"
        ": check their unit and the clock that wrote them"
    )


def test_future_time_is_detected_in_every_unit(tmp_path: Path) -> None:
    (warning,) = scan(tmp_path, [*sound(7, 10**6), 4_000_000_000 * 10**6]).profile().warnings
    assert "1 timestamp is in the future, the latest 2096-10-02 07:06:40" in warning


def test_year_9999_counts_as_future_and_not_as_another_unit(tmp_path: Path) -> None:
    (warning,) = scan(tmp_path, [*sound(7), "9999-12-31T23:59:59"]).profile().warnings
    assert "the latest 9999-12-31 23:59:59" in warning


def test_time_beyond_the_calendar_has_a_year() -> None:
    times = TimeStatistics(_NOW)
    for value in (-1e11, 2.9e11):
        times.add(value, 1)
    assert times.in_words() == "the year -1199 to the year 11160, UTC"


def test_column_without_times_has_none() -> None:
    assert TimeStatistics(_NOW).in_words() == "none"
    assert TimeStatistics(_NOW).warnings(str) == []


_INTERACTIONS, _MAX_BYTES = 100_000, 50  # bytes of each interaction, measured: 42; sorted for each figure: 68


def figures(logs: int) -> list[object]:
    """Read, sort and count the same interactions `logs` times; hold all results."""
    results: list[object] = []
    for _ in range(logs):
        log = InteractionLog()
        for n in range(_INTERACTIONS):
            log.add(f"user-{n % 2_000}", n * 7 % 5_000, float(n * 7_919 % 1_000_000))
        data = log.sort()
        results += [data.has_order, data.tied_share, data.repeated, data.histories(), data.history_times()]
    return results


def test_figures_of_interactions_take_little_memory() -> None:
    assert peak_of(lambda: figures(1)) < _MAX_BYTES * _INTERACTIONS
    assert peak_of(lambda: figures(2)) > _MAX_BYTES * _INTERACTIONS  # the control
