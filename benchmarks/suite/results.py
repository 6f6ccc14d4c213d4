"""A run of `swiftrec bench` with its raw rows: `bench.json`, a Parquet file, and a HdrHistogram log for each window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from swiftrec.benchmarks import result_files
from swiftrec.benchmarks.hdr import write_log
from swiftrec.benchmarks.optional_deps import require_module
from swiftrec.benchmarks.statistics import COLUMNS, RequestRows
from swiftrec.benchmarks.suite.result import Point, Result

PARQUET = "rows.parquet"


class RawRows:
    """Collects the rows of windows; `write` puts them into a folder."""

    def __init__(self) -> None:
        self.windows: list[tuple[RequestRows, Point]] = []

    def add(self, rows: RequestRows, point: Point) -> None:
        """Keep the rows of a window."""
        self.windows.append((rows, point))

    def latencies(self, workload: str, share: float) -> NDArray[np.float64]:
        """Milliseconds of all successful requests at a share of the capacity (open loop), ascending."""
        latencies = [
            rows.latency_ms() for rows, point in self.windows if (point.workload, point.share) == (workload, share)
        ]
        return np.sort(np.concatenate(latencies)) if latencies else np.zeros(0)

    @classmethod
    def load(cls, folder: Path, points: Sequence[Point]) -> RawRows:
        """Read what `write` wrote; empty if there is no file.

        Raises:
            RuntimeError: the extra bench is not installed.
        """
        raw, path = cls(), folder / PARQUET
        if path.exists():
            table = require_module("pyarrow.parquet").read_table(path, columns=["window", *COLUMNS])
            columns = {name: table[name].to_numpy() for name in ("window", *COLUMNS)}
            for number, point in enumerate(points):
                is_here = columns["window"] == number
                raw.add(RequestRows(*(columns[name][is_here] for name in COLUMNS)), point)
        return raw

    def write(self, folder: Path) -> None:
        """Write `rows.parquet` and `hdr/`.

        Raises:
            OSError: they cannot be written.
            RuntimeError: the extra bench is not installed.
        """
        arrow, parquet = require_module("pyarrow"), require_module("pyarrow.parquet")
        tables = []
        (folder / "hdr").mkdir(exist_ok=True)
        for number, (rows, point) in enumerate(self.windows):
            facts = {name: getattr(point, name) for name in ("workload", "loop", "round", "share", "in_flight")}
            columns = {name: [value] * len(rows) for name, value in facts.items()} | rows.columns()
            tables.append(arrow.table({"window": [number] * len(rows), **columns}))
            load = f"{point.share:g}" if point.loop == "open" else f"{point.in_flight}"
            name = f"{number:03}-{point.workload}-{point.loop}-{load}-round-{point.round}.hlog"
            write_log(rows, folder / "hdr" / name, point.workload)
        if tables:
            parquet.write_table(arrow.concat_tables(tables, promote_options="default"), folder / PARQUET)


@dataclass(frozen=True, slots=True)
class MeasuredRun:
    """A result with its raw rows."""

    result: Result
    raw: RawRows

    @classmethod
    def load(cls, path: Path) -> MeasuredRun:
        """Read a result, given its folder or its bench.json with the rows beside it.

        Raises:
            RuntimeError: there is no result, or no raw rows.
        """
        result, rows = result_files.load(path, Result), result_files.result_file(path, Result).parent / PARQUET
        if not rows.exists():
            raise RuntimeError(
                f"{rows}: missing, so latencies cannot be compared: copy the whole folder, or measure again"
            )
        return cls(result, RawRows.load(rows.parent, result.points))

    def windows(self, workload: str, loop: str, share: float = 0.0) -> list[tuple[RequestRows, Point]]:
        """The windows of the rounds, in order; `share` is 0 in a closed loop."""
        windows = [
            (rows, point)
            for rows, point in self.raw.windows
            if point.round and (point.workload, point.loop, point.share) == (workload, loop, share)
        ]
        return sorted(windows, key=lambda window: window[1].round)

    def shares(self, workload: str) -> set[float]:
        """The shares of the capacity that were offered."""
        return {point.share for _, point in self.raw.windows if (point.workload, point.loop) == (workload, "open")}

    def by_round(self, workload: str, cost: Literal["floor_us", "echo_us"]) -> dict[int, float]:
        """A workload's cost by the number of the round, from 1; without rounds in which it is unknown."""
        measured = self.result.workloads.get(workload)
        values = getattr(measured, cost).values if measured else []
        return {number: value for number, value in enumerate(values, 1) if np.isfinite(value) and value > 0}
