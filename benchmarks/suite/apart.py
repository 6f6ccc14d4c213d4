"""What was measured apart from `make bench` and joined its result, as tables: other servers, teacher, catalogue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from swiftrec.benchmarks import report
from swiftrec.benchmarks.peers.targets import SEPARATOR
from swiftrec.benchmarks.suite.result import Result

_PEERS = [
    "server", "variant", "mode", "batches", "wire", "requests/s", "of floor", "by CPU", "p50 ms alone",
    "p99 ms at 70 %", "errors", "wrong", "alone = batch", "core busy",
]  # fmt: skip
IN_PROCESS = "the whole of it but gRPC, in one process, one at a time"
Row = Mapping[str, Any]


def block(result: Result) -> list[str]:
    """Each part that there is."""
    found = result.peers
    parts = [peers(found.rows)] if found.rows else []
    parts += [f"{name}: not measured: {why}" for name, why in found.skipped.items()]
    parts += ["PARTIAL: not all of the comparison with other servers was measured"] if found.is_partial else []
    parts += [tries(found.tries)] if found.tries else []
    parts += [_teacher(result.teacher)] if result.teacher else []
    return [*parts, catalogue(result.catalogue)] if result.catalogue else parts


def peers(rows: Sequence[Row]) -> str:
    """A line for each server, mode and variant, and what a reader must know of it."""
    notes = [f"{label(row)}: {row['note']}" for row in rows if row["note"]]
    notes += [f"{name}: {words}" for name, words in few_rounds(rows).items()]
    return "\n".join([report.table(_PEERS, [_peer(row) for row in rows]), *notes])


def few_rounds(rows: Sequence[Row]) -> dict[str, str]:
    """How many rounds there are of each row that has fewer than were asked for (in older results: than the others)."""
    most = max((len(row["rounds"]) for row in rows), default=0)
    numbers = ((row, len(row["rounds"]), row.get("rounds_asked", most)) for row in rows)
    return {label(row): f"{number} of {asked} rounds" for row, number, asked in numbers if number < asked}


def label(row: Row) -> str:
    """Encoder, server and mode."""
    return SEPARATOR.join((row["variant"], row["target"], row["mode"]))


def tries(rows: Sequence[Row]) -> str:
    """The settings of each peer that were tried, and which is its best."""
    head = [
        "server",
        "variant",
        "mode",
        "tried",
        "of floor",
        "p50 ms alone",
        "p99 ms at 70 %",
        "errors",
        "wrong",
        "best",
    ]
    return report.table(
        head,
        [
            [
                *(row[name] for name in ("target", "variant", "mode", "tried")),
                _range(row, "share_of_floor"),
                _number(row.get("p50_ms_one_in_flight"), 2),
                _number(row["p99_ms_at_70"]),
                *(str(row.get(name, "")) for name in ("errors", "wrong_answers")),
                "yes" if row["is_best"] else "",
            ]
            for row in rows
        ],
    )


def recall_10(search: Row) -> str:
    """As it is shown; older results have none."""
    return f"{search['recall_10']:.4f}" if "recall_10" in search else "-"


def catalogue(rows: Sequence[Row]) -> str:
    """Three tables: search, whole requests, costs."""
    search = [
        [f"{row['items']:,}", row["index"], name, f"{s['recall']:.4f}", recall_10(s), f"{s['worst']:.2f}"]
        + [f"{s[key]:.2f}" for key in ("p50_ms", "p99_ms")]
        for row in rows
        for name, s in row["search"].items()
    ]
    whole = [
        [f"{row['items']:,}", row["index"], name, f"{w['p50_ms']:.2f}", f"{w['p99_ms']:.2f}", report.spread(w["ratio"])]
        for row in rows
        for name, w in row["whole"].items()
    ]
    costs = [
        [f"{row['items']:,}", row["index"], *(f"{row[key]:.1f}" for key in ("load_s", "build_s"))]
        + [f"{row[key]:.0f}" for key in ("memory_mb", "index_mb")]
        for row in rows
    ]
    of_search = ["items", "index", "request", "recall@100", "recall@10", "worst@100"]
    cut = [f"PARTIAL: {reason}" for reason in dict.fromkeys(row.get("partial", "") for row in rows) if reason]
    return "\n\n".join(
        [
            report.table([*of_search, "p50 ms", "p99 ms"], search),
            f"Recommend: {IN_PROCESS}",
            report.table(["items", "index", "Recommend", "p50 ms", "p99 ms", "x 2,000 items"], whole),
            report.table(["items", "index", "load s", "build s", "memory MB", "index MB"], costs),
            *cut,
        ]
    )


def _peer(row: Row) -> list[str]:
    found = row["rounds"]
    return [
        *(row[name] for name in ("target", "variant", "mode")),
        "{batch} within {wait_ms} ms".format(**row["batching"]) if row.get("batching") else "",
        row["wire"],
        report.spread([f["requests_per_s"] for f in found]),
        _range(row, "share_of_floor"),
        _range(row, "share_of_floor_by_cpu"),
        _number(row["p50_ms_one_in_flight"], 2),
        _tail(row),
        str(row["errors"]),
        f"{row['wrong_answers']}/{sum(f['answers'] for f in found)}",
        "yes" if row["alone_equals_batch"] else "NO",
        f"{np.median([f['busy'] for f in found]):.2f}",
    ]


def _tail(row: Row) -> str:
    """The p99 of each round; of all together, without a range, where one has not answers enough."""
    p99s = [f["p99_ms_at_70"] for f in row["rounds"]]
    return report.spread(p99s, 1) if None not in p99s else _number(row["p99_ms_at_70"]) or "too few"


def _teacher(found: Row) -> str:
    rate, cpu = _spread(found["rate_ratio"]), _spread(found["cpu_ratio"])
    return f"student / PyTorch teacher: {rate} in rate at p99 <= {found['p99_bound_ms']:g} ms, {cpu} in CPU"


def _range(row: Row, name: str) -> str:
    low, high = row["spread"][name]
    return f"{row[name]:.2f} ({low:.2f}-{high:.2f})"


def _number(value: float | None, digits: int = 1) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _spread(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return report.spread(known) if known else "?"
