"""`catalogue.json`: recall, speed and memory of the catalogue by its size, and its tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field

from swiftrec.benchmarks import formatting
from swiftrec.benchmarks.formatting import Table
from swiftrec.benchmarks.result_files import ResultRow, ToolResult

_IN_PROCESS = "the whole request without gRPC, in one process, one at a time, for ten items"
_SEARCH = ["items", "index", "request", "recall@100", "recall@10", "worst@100", "p50 ms", "p99 ms"]
_WHOLE = ["items", "index", "Recommend", "p50 ms", "p99 ms", "x 2,000 items"]
_COSTS = ["items", "index", "load s", "build s", "memory MB", "index MB"]
LARGE_CATALOGUE = 1_000_000


class CatalogueResult(ToolResult):
    """The catalogue at each size, exact and with the index."""

    file: ClassVar[str] = "catalogue.json"
    tool: ClassVar[str] = "swiftrec bench catalogue"

    rows: list[dict[str, Any]] = Field([], description="one for each size and index")

    def row(self, items: int) -> ResultRow:
        """The row of a size, approximately searched; empty if it was not measured."""
        rows = (row for row in self.rows if (row["items"], row["index"]) == (items, "approximate"))
        return next(rows, {})


def tables(rows: Sequence[ResultRow]) -> list[Table]:
    """Search, whole requests and costs, by size and index."""
    search = [
        [f"{row['items']:,}", row["index"], name, f"{s['recall']:.4f}", f"{s['recall_10']:.4f}", f"{s['worst']:.2f}"]
        + [f"{s[key]:.2f}" for key in ("p50_ms", "p99_ms")]
        for row in rows
        for name, s in row["search"].items()
    ]
    requests = [
        [
            *(f"{row['items']:,}", row["index"], name),
            *(f"{w['p50_ms']:.2f}", f"{w['p99_ms']:.2f}", formatting.spread(w["ratio"])),
        ]
        for row in rows
        for name, w in row["whole"].items()
    ]
    costs = [
        [f"{row['items']:,}", row["index"], *(f"{row[key]:.1f}" for key in ("load_s", "build_s"))]
        + [f"{row[key]:.0f}" for key in ("memory_mb", "index_mb")]
        for row in rows
    ]
    return [
        Table(_SEARCH, search, "Search for 100 items (recall@10: for ten)"),
        Table(_WHOLE, requests, f"Recommend: {_IN_PROCESS}"),
        Table(_COSTS, costs, "Costs of a size and index"),
    ]


def text(rows: Sequence[ResultRow]) -> str:
    """The tables for the terminal."""
    return "\n\n".join(f"{table.title}\n{table}" for table in tables(rows))
