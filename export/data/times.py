"""The times of interactions: their range, and warnings about mixed units and times in the future."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CLOCK_SKEW_S = 86_400  # the most by which a local time that is read as UTC can be ahead


@dataclass(slots=True)
class _Unit:
    """The times whose size suggests one unit: those up to `limit`, which is the year 11,476."""

    name: str
    per_second: int
    count: int = 0
    earliest: float = math.inf
    latest: float = -math.inf
    first_row: int = 0
    future: int = 0
    first_future_row: int = 0

    @property
    def limit(self) -> float:
        return 3e11 * self.per_second

    def add(self, value: float, row: int, now: float) -> None:
        if not self.count:
            self.first_row = row
        self.count += 1
        self.earliest, self.latest = min(self.earliest, value), max(self.latest, value)
        if value > now * self.per_second:
            self.first_future_row = self.first_future_row if self.future else row
            self.future += 1


class TimeStatistics:
    """Counts times by the unit that their size suggests; `now` are seconds since 1970."""

    def __init__(self, now: float) -> None:
        self._now = now + _CLOCK_SKEW_S
        names = ("seconds", "milliseconds", "microseconds", "nanoseconds")
        self._units = [_Unit(name, 1000**n) for n, name in enumerate(names)]

    def add(self, value: float, row: int) -> None:
        """Count one time, found in row number `row`."""
        unit = next((unit for unit in self._units if abs(value) < unit.limit), self._units[-1])
        unit.add(value, row, self._now)

    @property
    def _used(self) -> list[_Unit]:
        return [unit for unit in self._units if unit.count]

    def constant(self) -> str | None:
        """The time of all interactions if it is the same, as written and as a date; else None."""
        if len(self._used) != 1 or self._used[0].earliest < self._used[0].latest:
            return None
        unit = self._used[0]
        return f"{unit.earliest:.15g} ({_moment(unit.earliest / unit.per_second)})" if unit.earliest else "0"

    def in_words(self) -> str:
        """The first and the last time as dates, and the unit if it is not seconds."""
        if not self._used:
            return "none"
        first = min(unit.earliest / unit.per_second for unit in self._used)
        last = max(unit.latest / unit.per_second for unit in self._used)
        units = " and ".join(unit.name for unit in self._used)
        return f"{_date(first)} to {_date(last)}, UTC" + ("" if units == "seconds" else f", written in {units}")

    def warnings(self, line_of: Callable[[int], str]) -> list[str]:
        """A sentence for each suspicious finding; `line_of` gives the line of a row."""
        return [*self._mixed(line_of), *self._future(line_of)]

    def _mixed(self, line_of: Callable[[int], str]) -> list[str]:
        if len(self._used) < 2:
            return []
        usual, *others = sorted(self._used, key=lambda unit: -unit.count)
        rest = " and ".join(f"{unit.count:,} like {unit.name} (first: {line_of(unit.first_row)})" for unit in others)
        return [
            f"timestamps are in several units: {usual.count:,} look like {usual.name}, {rest}: histories are "
            "in a wrong order unless all are in one unit"
        ]

    def _future(self, line_of: Callable[[int], str]) -> list[str]:
        future = [unit for unit in self._used if unit.future]
        if not future:
            return []
        last = max(unit.latest / unit.per_second for unit in future)
        row, count = min(unit.first_future_row for unit in future), sum(unit.future for unit in future)
        return [
            f"{count:,} timestamp{'s are' if count > 1 else ' is'} in the future, the latest {_moment(last)} (first: "
            f"{line_of(row)}): check their unit and the clock that wrote them"
        ]


def _date(seconds: float) -> str:
    return _written(seconds, "%Y-%m-%d")


def _moment(seconds: float) -> str:
    return _written(seconds, "%Y-%m-%d %H:%M:%S")


def _written(seconds: float, form: str) -> str:
    try:
        return (_EPOCH + timedelta(seconds=seconds)).strftime(form)
    except OverflowError:  # Python's calendar has the years 1 to 9999
        return f"the year {round(1970 + seconds / (365.2425 * 86_400)):.6g}"
