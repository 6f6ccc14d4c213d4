"""The times of interactions: their range, and what is suspicious about them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CLOCK_SKEW_S = 86_400  # a local time that is taken for UTC is at most so far ahead


@dataclass(slots=True)
class _Unit:
    """Numbers that look like times of one unit: those up to `limit`, which is the year 11,476."""

    name: str
    per_second: int
    count: int = 0
    least: float = math.inf
    most: float = -math.inf
    first_row: int = 0
    future: int = 0
    first_future_row: int = 0

    @property
    def limit(self) -> float:
        return 3e11 * self.per_second

    def add(self, value: float, row: int, latest: float) -> None:
        if not self.count:
            self.first_row = row
        self.count += 1
        self.least, self.most = min(self.least, value), max(self.most, value)
        if value > latest * self.per_second:
            self.first_future_row = self.first_future_row if self.future else row
            self.future += 1


class TimeStatistics:
    """Counts times by the unit that their size suggests; `now` are seconds since 1970."""

    def __init__(self, now: float) -> None:
        self._latest = now + _CLOCK_SKEW_S
        names = ("seconds", "milliseconds", "microseconds", "nanoseconds")
        self._units = [_Unit(name, 1000**n) for n, name in enumerate(names)]

    def add(self, value: float, row: int) -> None:
        """Count one time, found in row number `row`."""
        unit = next((unit for unit in self._units if abs(value) < unit.limit), self._units[-1])
        unit.add(value, row, self._latest)

    @property
    def _used(self) -> list[_Unit]:
        return [unit for unit in self._units if unit.count]

    def constant(self) -> str | None:
        """The one time that all events have, as it is written and as a date; None if there are several."""
        if len(self._used) != 1 or self._used[0].least < self._used[0].most:
            return None
        unit = self._used[0]
        return f"{unit.least:.15g} ({_moment(unit.least / unit.per_second)})" if unit.least else "0"

    def in_words(self) -> str:
        """The first and the last time as dates, and the unit if it is not seconds."""
        if not self._used:
            return "none"
        first = min(unit.least / unit.per_second for unit in self._used)
        last = max(unit.most / unit.per_second for unit in self._used)
        units = " and ".join(unit.name for unit in self._used)
        return f"{_date(first)} to {_date(last)}, UTC" + ("" if units == "seconds" else f", written in {units}")

    def warnings(self, where: Callable[[int], str]) -> list[str]:
        """A sentence for each thing that is suspicious; `where` names the place of a row."""
        return [*self._mixed(where), *self._future(where)]

    def _mixed(self, where: Callable[[int], str]) -> list[str]:
        if len(self._used) < 2:
            return []
        usual, *others = sorted(self._used, key=lambda unit: -unit.count)
        rest = " and ".join(f"{unit.count:,} like {unit.name} (first: {where(unit.first_row)})" for unit in others)
        return [
            f"timestamps are in several units: {usual.count:,} look like {usual.name}, {rest}: histories are "
            "in a wrong order until all are in one unit"
        ]

    def _future(self, where: Callable[[int], str]) -> list[str]:
        late = [unit for unit in self._used if unit.future]
        if not late:
            return []
        last = max(unit.most / unit.per_second for unit in late)
        row, count = min(unit.first_future_row for unit in late), sum(unit.future for unit in late)
        return [
            f"{count:,} timestamp{'s are' if count > 1 else ' is'} in the future, the latest {_moment(last)} (first: "
            f"{where(row)}): check their unit and the clock that they are from"
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
