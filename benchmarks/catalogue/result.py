"""`catalogue.json`: recall, speed and memory of the catalogue by its size, and its tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field

from swiftrec.benchmarks import formatting
from swiftrec.benchmarks.result_files import ResultRow, ToolResult

IN_PROCESS = "the whole request without gRPC, in one process, one at a time"
_SEARCH = ["items", "index", "request", "recall@100", "recall@10", "worst@100", "p50 ms", "p99 ms"]
_WHOLE = ["items", "index", "Recommend", "p50 ms", "p99 ms", "x 2,000 items"]
_COSTS = ["items", "index", "load s", "build s", "memory MB", "index MB"]


class CatalogueResult(ToolResult):
    """The catalogue at each size, exact and with the index."""

    file: ClassVar[str] = "catalogue.json"
    tool: ClassVar[str] = "swiftrec bench catalogue"

    rows: list[dict[str, Any]] = Field([], description="one for each size and index")


def tables(rows: Sequence[ResultRow]) -> str:
    """Three tables: search, whole requests, costs."""
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
    return "\n\n".join(
        [
            formatting.table(_SEARCH, search),
            f"Recommend: {IN_PROCESS}",
            formatting.table(_WHOLE, requests),
            formatting.table(_COSTS, costs),
        ]
    )
