"""A result of `make bench` with the raw rows of its windows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from swiftrec.benchmarks.suite import store
from swiftrec.benchmarks.suite.raw import PARQUET, Raw
from swiftrec.benchmarks.suite.result import Point, Result
from swiftrec.benchmarks.summary import Rows


@dataclass(frozen=True, slots=True)
class Run:
    """A result with its raw rows."""

    result: Result
    raw: Raw

    @classmethod
    def load(cls, path: Path) -> Run:
        """Read a result: its folder, or its result.json with the rows beside it.

        Raises:
            RuntimeError: there is no result, or no raw rows.
        """
        result, rows = store.load(path), store.file_of(path).parent / PARQUET
        if not rows.exists():
            raise RuntimeError(
                f"{rows}: missing, so no latency can be compared: copy the whole folder or measure again"
            )
        return cls(result, Raw.load(rows.parent, result.points))

    def windows(self, workload: str, loop: str, share: float = 0.0) -> list[tuple[Rows, Point]]:
        """The windows of the rounds, in order; `share` is 0 in a closed loop."""
        found = [
            (rows, point)
            for rows, point in self.raw.windows
            if point.round and (point.workload, point.loop, point.share) == (workload, loop, share)
        ]
        return sorted(found, key=lambda window: window[1].round)

    def shares(self, workload: str) -> set[float]:
        """The shares of the capacity that were offered."""
        return {point.share for _, point in self.raw.windows if (point.workload, point.loop) == (workload, "open")}

    def by_round(self, workload: str, cost: Literal["floor_us", "echo_us"]) -> dict[int, float]:
        """A workload's cost by the number of the round, from 1; without rounds in which it is not known."""
        found = self.result.workloads.get(workload)
        values = getattr(found, cost).values if found else []
        return {number: value for number, value in enumerate(values, 1) if np.isfinite(value) and value > 0}
