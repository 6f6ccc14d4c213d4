"""The raw rows of every window: one Parquet file, and a HdrHistogram log for each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from swiftrec.benchmarks.extra import need
from swiftrec.benchmarks.hdr import write_log
from swiftrec.benchmarks.suite.result import Point
from swiftrec.benchmarks.summary import COLUMNS, Rows

PARQUET = "rows.parquet"


class Raw:
    """Collects windows; `write` puts them into a folder."""

    def __init__(self) -> None:
        self.windows: list[tuple[Rows, Point]] = []

    def add(self, rows: Rows, point: Point) -> None:
        """Keep the rows of a window."""
        self.windows.append((rows, point))

    def latencies(self, workload: str, share: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        """Milliseconds of all good answers at a share of the capacity (open loop), ascending."""
        found = [
            rows.latency_ms() for rows, point in self.windows if (point.workload, point.share) == (workload, share)
        ]
        return np.sort(np.concatenate(found)) if found else np.zeros(0)

    @classmethod
    def load(cls, folder: Path, points: Sequence[Point]) -> Raw:
        """Read what `write` wrote; nothing if it wrote nothing.

        Raises:
            RuntimeError: the extra bench is not installed.
        """
        found, path = cls(), folder / PARQUET
        if path.exists():
            table = need("pyarrow.parquet").read_table(path, columns=["window", *COLUMNS])
            columns = {name: table[name].to_numpy() for name in ("window", *COLUMNS)}
            for number, point in enumerate(points):
                here = columns["window"] == number
                found.add(Rows(*(columns[name][here] for name in COLUMNS)), point)
        return found

    def write(self, folder: Path) -> None:
        """Write `rows.parquet` and `hdr/`.

        Raises:
            OSError: they cannot be written.
            RuntimeError: the extra bench is not installed.
        """
        arrow, parquet = need("pyarrow"), need("pyarrow.parquet")
        tables = []
        (folder / "hdr").mkdir(exist_ok=True)
        for number, (rows, point) in enumerate(self.windows):
            facts = {name: getattr(point, name) for name in ("workload", "loop", "round", "share", "in_flight")}
            columns = {name: [value] * len(rows) for name, value in facts.items()} | rows.columns()
            tables.append(arrow.table({"window": [number] * len(rows), **columns}))
            what = f"{point.share:g}" if point.loop == "open" else f"{point.in_flight}"
            name = f"{number:03}-{point.workload}-{point.loop}-{what}-round-{point.round}.hlog"
            write_log(rows, folder / "hdr" / name, point.workload)
        if tables:
            parquet.write_table(arrow.concat_tables(tables, promote_options="default"), folder / PARQUET)
