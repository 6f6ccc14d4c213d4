"""The comparison with other servers as tables and sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from swiftrec.benchmarks import formatting
from swiftrec.benchmarks.formatting import Table
from swiftrec.benchmarks.peers.targets import SEPARATOR
from swiftrec.benchmarks.result_files import ResultRow

_PEERS = [
    "server", "variant", "mode", "batches", "transport", "requests/s", "of floor", "by CPU", "p50 ms alone",
    "p99 ms at 70 %", "errors", "wrong", "alone = batch", "core busy",
]  # fmt: skip
_TRIES = [
    "server", "variant", "mode", "setting", "of floor", "p50 ms alone", "p99 ms at 70 %", "errors", "wrong", "best",
]  # fmt: skip


def peers(rows: Sequence[ResultRow]) -> Table:
    """A row for each server, mode and variant, the best of each variant first."""
    ordered = sorted(rows, key=lambda row: (row["variant"], -row["share_of_floor"]))
    return Table(_PEERS, [_peer(row) for row in ordered])


def tries(rows: Sequence[ResultRow]) -> Table:
    """The settings of each peer that were tried, and which is its best."""
    return Table(_TRIES, [_try(row) for row in rows])


def notes(rows: Sequence[ResultRow], skipped: Mapping[str, str]) -> Iterator[str]:
    """What a reader needs to judge the rows, and why a server has none."""
    yield from (f"{label(row)}: {row['note']}" for row in rows if row["note"])
    yield from (f"{name}: {number}" for name, number in few_rounds(rows).items())
    yield from (f"{name}: not measured: {reason}" for name, reason in skipped.items())


def few_rounds(rows: Sequence[ResultRow]) -> dict[str, str]:
    """The number of rounds of each row that has fewer than requested."""
    numbers = ((row, len(row["rounds"]), row["rounds_requested"]) for row in rows)
    return {label(row): f"{number} of {requested} rounds" for row, number, requested in numbers if number < requested}


def label(row: ResultRow) -> str:
    """Encoder, server and mode."""
    return SEPARATOR.join((row["variant"], row["target"], row["mode"]))


def _try(row: ResultRow) -> list[str]:
    return [
        *(row[name] for name in ("target", "variant", "mode", "tried")),
        _range(row, "share_of_floor"),
        _number(row.get("p50_ms_one_in_flight"), 2),
        _number(row["p99_ms_at_70"]),
        *(str(row.get(name, "")) for name in ("errors", "wrong_answers")),
        "yes" if row["is_best"] else "",
    ]


def _peer(row: ResultRow) -> list[str]:
    rounds = row["rounds"]
    return [
        *(row[name] for name in ("target", "variant", "mode")),
        "{batch} within {wait_ms} ms".format(**row["batching"]) if row.get("batching") else "",
        row["transport"],
        formatting.spread([r["requests_per_s"] for r in rounds]),
        _range(row, "share_of_floor"),
        _range(row, "share_of_floor_by_cpu"),
        _number(row["p50_ms_one_in_flight"], 2),
        _tail(row),
        str(row["errors"]),
        f"{row['wrong_answers']}/{sum(r['answers'] for r in rounds)}",
        "yes" if row["alone_equals_batch"] else "NO",
        f"{np.median([r['busy'] for r in rounds]):.2f}",
    ]


def _tail(row: ResultRow) -> str:
    """The p99 of each round; if one has too few responses, that of all rounds together."""
    p99s = [r["p99_ms_at_70"] for r in row["rounds"]]
    return formatting.spread(p99s, 1) if None not in p99s else _number(row["p99_ms_at_70"]) or "too few"


def _range(row: ResultRow, name: str) -> str:
    low, high = row["spread"][name]
    return f"{row[name]:.2f} ({low:.2f}-{high:.2f})"


def _number(value: float | None, digits: int = 1) -> str:
    return "" if value is None else f"{value:.{digits}f}"
