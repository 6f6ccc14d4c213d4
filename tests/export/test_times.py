"""Times of interactions: their range as dates, and what is suspicious about them in one sentence each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from swiftrec.export.data.loader import Scan
from swiftrec.export.data.times import TimeStatistics

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


def test_year_of_a_number_beyond_every_calendar_is_short(tmp_path: Path) -> None:
    facts = scan(tmp_path, [*sound(), 1e300]).facts()
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
def test_range_is_told_as_dates_whatever_the_unit(tmp_path: Path, unit: int, written: str) -> None:
    found = scan(tmp_path, sound(unit=unit)).facts()
    assert (found.times, found.warnings) == (f"2023-11-14 to 2023-11-15, UTC{written}", ())
    assert found.rows()["times"] == found.times


@pytest.mark.parametrize(
    "times",
    [
        [*range(8)],
        ["2023-11-14T22:13:20Z", "2023-11-14"] * 4,
        [-10_000_000_000, *sound(7)],
        [*sound(7), _NOW + _DAY],  # a local time that is taken for UTC
    ],
)
def test_sound_times_are_not_warned_of(tmp_path: Path, times: list[object]) -> None:
    assert scan(tmp_path, times).facts().warnings == ()


def test_mixed_units_are_warned_of_with_the_first_row_of_the_rare_one(tmp_path: Path) -> None:
    (warning,) = scan(tmp_path, [*sound(5), 1_700_000_000_000, 1_700_000_100_000, 1_700_000_000]).facts().warnings
    assert warning == (
        f"{tmp_path}/interactions.jsonl: timestamps are in several units: 6 look like seconds, 2 like milliseconds "
        "(first: line 6): histories are in a wrong order until all are in one unit"
    )


def test_three_units_are_one_warning(tmp_path: Path) -> None:
    times = [*sound(6), 1_700_000_000 * 10**6, 1_700_000_000 * 10**9]
    (warning,) = scan(tmp_path, times).facts().warnings
    assert "1 like microseconds (first: line 7) and 1 like nanoseconds (first: line 8)" in warning


@pytest.mark.parametrize("time", [1_700_000_000, 1_700_000_000_000, "2023-11-14T22:13:20"])
def test_equal_times_are_no_order(tmp_path: Path, time: object) -> None:
    mistakes = scan(tmp_path, [time] * 8).mistakes
    written = time if isinstance(time, int) else 1_700_000_000
    assert mistakes.is_fatal
    assert (
        "no order of events, 1 time: write the times of the events, or choose another order: --order none trains "
        "without order, --order file takes the order of the rows\n"
        f"  {tmp_path}/interactions.jsonl: column timestamp is {written} (2023-11-14 22:13:20) in every row"
    ) == mistakes.report()


def test_future_is_warned_of_with_its_first_row(tmp_path: Path) -> None:
    (warning,) = scan(tmp_path, [*sound(6), "2099-12-31", "2027-02-01"]).facts().warnings
    assert warning == (
        f"{tmp_path}/interactions.jsonl: 2 timestamps are in the future, the latest 2099-12-31 00:00:00 (first: line 7)"
        ": check their unit and the clock that they are from"
    )


def test_future_is_found_in_every_unit(tmp_path: Path) -> None:
    (warning,) = scan(tmp_path, [*sound(7, 10**6), 4_000_000_000 * 10**6]).facts().warnings
    assert "1 timestamp is in the future, the latest 2096-10-02 07:06:40" in warning


def test_last_year_of_the_calendar_is_future_and_not_another_unit(tmp_path: Path) -> None:
    (warning,) = scan(tmp_path, [*sound(7), "9999-12-31T23:59:59"]).facts().warnings
    assert "the latest 9999-12-31 23:59:59" in warning


def test_time_beyond_the_calendar_has_a_year() -> None:
    times = TimeStatistics(_NOW)
    for value in (-1e11, 2.9e11):
        times.add(value, 1)
    assert times.in_words() == "the year -1199 to the year 11160, UTC"


def test_no_times_are_none() -> None:
    assert TimeStatistics(_NOW).in_words() == "none"
    assert TimeStatistics(_NOW).warnings(str) == []
