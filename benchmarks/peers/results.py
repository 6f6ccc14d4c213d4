"""Results of the comparison with other servers: `peers.json`, or with --tries `peer-settings.json`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from swiftrec.benchmarks import formatting
from swiftrec.benchmarks.peers import tables
from swiftrec.benchmarks.peers.measure import RoundFigures, p99_or_none
from swiftrec.benchmarks.peers.targets import SEPARATOR, Batching, Target
from swiftrec.benchmarks.result_files import ResultRow, ToolResult

_MAX_CLIENT_BUSY = 0.95
_TRY_FIELDS = (
    "target", "variant", "share_of_floor", "p50_ms_one_in_flight", "p99_ms_at_70", "errors", "wrong_answers",
    "is_client_limited", "spread",
)  # fmt: skip
Key = tuple[str, str, str]
"""Variant, server and mode."""


class PeersResult(ToolResult):
    """Every server on the same job."""

    file: ClassVar[str] = "peers.json"
    tool: ClassVar[str] = "swiftrec bench peers"

    rows: list[dict[str, Any]] = Field([], description="one for each variant, server and mode: medians over rounds")
    skipped: dict[str, str] = Field({}, description="server, or variant, server and mode -> why it was not measured")
    client_us: dict[str, float] = Field({}, description="transport -> CPU of the client for one request")


class PeerSettingsResult(ToolResult):
    """The batching settings of each peer; the best is used in later comparisons."""

    file: ClassVar[str] = "peer-settings.json"
    tool: ClassVar[str] = "swiftrec bench peers --tries"

    rows: list[dict[str, Any]] = Field([], description="one for each setting; `is_best` marks the best")


@dataclass(frozen=True, slots=True)
class RoundResult:
    """Figures of one round, and the floor around it: CPU microseconds a text."""

    figures: RoundFigures
    floor_us: float

    @property
    def share(self) -> float:
        """Requests/s as a share of the floor's rate for texts of the same length."""
        return self.figures.requests_per_s * self.floor_us * self.figures.mix / 1e6

    @property
    def cpu_share(self) -> float:
        """The same by CPU time, as if the server never waited and had its core to itself."""
        return self.floor_us * self.figures.mix / self.figures.server_us


@dataclass(slots=True)
class PeerResults:
    """Everything measured so far with one bundle.

    Attributes:
        repeats: requested rounds.
        rounds: results by variant, server and mode.
        targets: likewise.
        skipped: server -> why it was not measured at all.
        died: variant, server and mode -> why it was not measured to the end.
        client_us: transport -> CPU microseconds of the client for one request.
    """

    repeats: int
    rounds: dict[Key, list[RoundResult]] = field(default_factory=dict)
    targets: dict[Key, Target] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    died: dict[str, str] = field(default_factory=dict)
    client_us: dict[str, float] = field(default_factory=dict)

    def add(self, variant: str, target: Target, result: RoundResult) -> None:
        """Add a round of a target."""
        key = (variant, target.name, target.mode)
        self.targets[key] = target
        self.rounds.setdefault(key, []).append(result)

    def rows(self) -> list[dict[str, Any]]:
        """One for each target: medians over the rounds, with None for what was not measured."""
        rows = [_row(self.targets[key], key[0], rounds, self.repeats) for key, rounds in self.rounds.items()]
        finite: list[dict[str, Any]] = formatting.finite(rows)
        return finite

    def why_skipped(self) -> dict[str, str]:
        """Everything that was not measured, or not to the end, and why."""
        return self.skipped | self.died

    def tries(self) -> list[dict[str, Any]]:
        """The row of each setting of each peer, with the best (requests/s as a share of the floor) marked.

        No setting is the best unless all were measured in as many rounds. A setting with errors or wrong rankings never
        is, nor one that the client limited, which might be better than measured.
        """
        rows = self.rows()
        best: dict[Key, float] = {}
        for row in rows:
            if self._is_complete(_peer_key(row)) and is_clean(row):
                best[_peer_key(row)] = max(best.get(_peer_key(row), 0.0), row["share_of_floor"])
        return [
            {
                **{name: row[name] for name in _TRY_FIELDS},
                "tried": str(self.targets[key].batching),
                "mode": _peer_key(row)[2],
                "is_best": is_clean(row)
                and not is_client_limited(row)
                and row["share_of_floor"] == best.get(_peer_key(row)),
                "rounds": len(row["rounds"]),
            }
            for key, row in zip(self.rounds, rows, strict=True)
        ]

    def _is_complete(self, peer: Key) -> bool:
        """Whether every setting of a peer was measured in the same number of rounds."""
        variant, name, mode = peer
        labels = [(variant, name, f"{mode}, {batching}") for batching in self._settings(peer)]
        return len({len(self.rounds.get(label, ())) for label in labels}) == 1

    def _settings(self, peer: Key) -> tuple[Batching, ...]:
        variant, name, mode = peer
        return next(
            target.tries
            for key, target in self.targets.items()
            if key[:2] == (variant, name) and key[2].partition(",")[0] == mode
        )

    def limited(self) -> list[str]:
        """Targets whose rows show what the client can do, not the server."""
        rounds = ((key, [result.figures for result in results]) for key, results in self.rounds.items())
        return [SEPARATOR.join(key[1:]) for key, figures in rounds if _is_limited(figures)]

    def table(self) -> str:
        """The table, with notes that a reader needs to judge it."""
        rows = self.rows()
        lines = [str(tables.peers(rows)), *tables.notes(rows, self.skipped)]
        lines += [
            f"the client needs {us:.0f} us a request by {how}: {1e6 / us:.0f}/s" for how, us in self.client_us.items()
        ]
        lines += [f"{name}: {reason}" for name, reason in self.died.items()]
        return "\n".join(lines)


def incomplete(result: PeersResult) -> str:
    """A reason if not all servers were measured to the end."""
    if result.is_partial:
        return f"partial: {result.reason}"
    targets = result.settings.get("targets")
    return f"only {', '.join(targets)} was measured" if targets else ""


def is_clean(row: ResultRow) -> bool:
    """Whether every request was answered with the right ranking."""
    return not (row["errors"] or row["wrong_answers"])


def is_client_limited(row: ResultRow) -> bool:
    """Whether the row shows what the client can do, not the server."""
    return bool(row.get("is_client_limited"))


def _is_limited(figures: Sequence[RoundFigures]) -> bool:
    return max(f.client_busy for f in figures) > _MAX_CLIENT_BUSY


def _peer_key(row: ResultRow) -> Key:
    """Variant, server, and mode without the setting that was tried."""
    return row["variant"], row["target"], row["mode"].partition(",")[0]


def _row(target: Target, variant: str, rounds: list[RoundResult], requested: int) -> dict[str, Any]:
    figures = [result.figures for result in rounds]

    def median(name: str) -> float | None:
        values = [value for f in figures if (value := getattr(f, name)) is not None]
        return float(np.median(values)) if values else None

    return {
        "target": target.name,
        "variant": variant,
        "mode": target.mode,
        "transport": target.transport,
        "batching": asdict(target.batching) if target.batching else None,
        "requests_per_s": median("requests_per_s"),
        "share_of_floor": float(np.median([result.share for result in rounds])),
        "share_of_floor_by_cpu": float(np.median([result.cpu_share for result in rounds])),
        "p50_ms_one_in_flight": median("p50_ms_one_in_flight"),
        "p99_ms_at_70": median("p99_ms_at_70") if _has_tails(figures) else _pooled_p99(figures),
        "errors": sum(f.errors for f in figures),
        "wrong_answers": sum(f.wrong_answers for f in figures),
        "alone_equals_batch": not any(f.different_alone for f in figures),
        "is_client_limited": _is_limited(figures),
        "spread": _spread(rounds),
        "rounds": [_round(result) for result in rounds],
        "rounds_requested": requested,
        "note": _note(figures),
    }


def _round(result: RoundResult) -> dict[str, Any]:
    fields = {name: value for name, value in asdict(result.figures).items() if name != "latency_ms"}
    return {**fields, "floor_us": result.floor_us, "share_of_floor": result.share}


def _has_tails(figures: Sequence[RoundFigures]) -> bool:
    """Whether each round has responses enough for a p99."""
    return all(f.p99_ms_at_70 is not None for f in figures)


def _pooled_p99(figures: Sequence[RoundFigures]) -> float | None:
    """The p99 at 70 % of all rounds together; None if they have too few responses as well."""
    return p99_or_none(np.concatenate([f.latency_ms for f in figures]))


def _spread(rounds: Sequence[RoundResult]) -> dict[str, list[float]]:
    ranges = {
        "requests_per_s": [result.figures.requests_per_s for result in rounds],
        "share_of_floor": [result.share for result in rounds],
        "share_of_floor_by_cpu": [result.cpu_share for result in rounds],
    }
    p99s = [p99 for result in rounds if (p99 := result.figures.p99_ms_at_70) is not None]
    ranges |= {"p99_ms_at_70": p99s} if len(p99s) == len(rounds) else {}
    return {name: [min(values), max(values)] for name, values in ranges.items()}


def _note(figures: Sequence[RoundFigures]) -> str:
    """What a reader needs to judge a row."""
    if trouble := next((f.trouble for f in figures if f.trouble), ""):
        return trouble
    if _is_limited(figures):
        return "the client was the limit: the server can do more"
    if np.median([f.late_ms for f in figures]) > 1.0:
        return f"the client sent up to {max(f.late_ms for f in figures):.1f} ms late at 70 %"
    return ""
