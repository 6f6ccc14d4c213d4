"""What was found: a table for people, a JSON file for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from swiftrec.benchmarks import report
from swiftrec.benchmarks.bundle_id import BundleId
from swiftrec.benchmarks.machine import fingerprint
from swiftrec.benchmarks.peers.measure import Figures, p99_or_none
from swiftrec.benchmarks.peers.targets import Batching, Target
from swiftrec.benchmarks.suite import apart
from swiftrec.benchmarks.suite.result import Peers

_BUSY = 0.95


@dataclass(frozen=True, slots=True)
class Entry:
    """Figures of one round, and the floor around it: CPU microseconds a text."""

    figures: Figures
    floor_us: float

    @property
    def share(self) -> float:
        """Requests/s as a share of what the floor would do, for texts of the same length."""
        return self.figures.requests_per_s * self.floor_us * self.figures.mix / 1e6

    @property
    def cpu_share(self) -> float:
        """The same by CPU time, as if the server had had its core to itself and never waited."""
        return self.floor_us * self.figures.mix / self.figures.server_us


@dataclass(slots=True)
class Results:
    """Everything found so far with one bundle."""

    settings: Mapping[str, Any]
    bundle: BundleId
    entries: dict[tuple[str, str, str], list[Entry]] = field(default_factory=dict)
    targets: dict[tuple[str, str, str], Target] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    died: dict[str, str] = field(default_factory=dict)
    client: dict[str, float] = field(default_factory=dict)
    is_partial: bool = True

    def add(self, variant: str, target: Target, entry: Entry) -> None:
        """One more round of a target."""
        key = (variant, target.name, target.mode)
        self.targets[key] = target
        self.entries.setdefault(key, []).append(entry)

    def rows(self) -> list[dict[str, Any]]:
        """One for each target and mode: medians over the rounds."""
        return [
            {**_row(self.targets[key], key[0], found), "rounds_asked": self.settings.get("repeats", len(found))}
            for key, found in self.entries.items()
        ]

    def save(self, path: Path) -> None:
        """Write the JSON file; it is whole at every moment."""
        content = {
            "machine": fingerprint(),
            "bundle": self.bundle.fields(),
            "partial": self.is_partial,
            "settings": dict(self.settings),
            "client_us": self.client,
            "skipped": self.skipped,
            "died": self.died,
            "rows": self.rows(),
            "tries": self.tries() if self.settings.get("tries") else [],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        made = path.with_name(f"{path.name}.tmp")
        made.write_text(json.dumps(report.finite(content), indent=1, allow_nan=False) + "\n")
        made.replace(path)

    def section(self) -> dict[str, Any]:
        """What `make bench`'s result holds of it: the section `peers`."""
        rows: list[dict[str, Any]] = report.finite(self.rows())
        return Peers.of(rows, self.skipped | self.died, [], is_partial=self.is_partial).model_dump()

    def tries(self) -> list[dict[str, Any]]:
        """Of a run with --tries: each setting of each peer, the best (requests/s as a share of the floor) marked.

        None is, unless all were measured in as many rounds; one with errors or wrong answers never is, nor one that
        the client held back, which might be better than it looks.
        """
        rows = self.rows()
        best: dict[tuple[str, str, str], float] = {}
        for row in rows:
            if self._is_whole(_of(row)) and is_clean(row):
                best[_of(row)] = max(best.get(_of(row), 0.0), row["share_of_floor"])
        kept = (
            "target",
            "variant",
            "share_of_floor",
            "p50_ms_one_in_flight",
            "p99_ms_at_70",
            "errors",
            "wrong_answers",
            "is_client_limited",
        )
        return [
            {
                **{name: row[name] for name in (*kept, "spread")},
                "tried": str(self.targets[key].batching),
                "mode": _of(row)[2],
                "is_best": is_clean(row) and not is_client_limited(row) and row["share_of_floor"] == best.get(_of(row)),
                "rounds": len(row["rounds"]),
            }
            for key, row in zip(self.entries, report.finite(rows), strict=True)
        ]

    def _is_whole(self, peer: tuple[str, str, str]) -> bool:
        """Whether every setting of a peer was measured, each as often."""
        variant, name, mode = peer
        labels = [(variant, name, f"{mode}, {one}") for one in self._tries_of(peer)]
        return len({len(self.entries.get(label, ())) for label in labels}) == 1

    def _tries_of(self, peer: tuple[str, str, str]) -> tuple[Batching, ...]:
        variant, name, mode = peer
        return next(
            target.tries
            for key, target in self.targets.items()
            if key[:2] == (variant, name) and key[2].partition(",")[0] == mode
        )

    def limits(self) -> list[str]:
        """Rows that say of our client and not of the server what it can do."""
        return [
            target.label
            for key, target in self.targets.items()
            if _is_limited([entry.figures for entry in self.entries[key]])
        ]

    def table(self) -> str:
        """The table with what must be known about it."""
        lines = [apart.peers(self.rows())]
        lines += [
            f"the client takes {us:.0f} us a request by {wire}: {1e6 / us:.0f}/s" for wire, us in self.client.items()
        ]
        lines += [f"{name}: not measured: {reason}" for name, reason in self.skipped.items()]
        lines += [f"{name}: {reason}" for name, reason in self.died.items()]
        if self.is_partial:
            lines.append("PARTIAL: the run did not come to its end")
        return "\n".join(lines)


def is_clean(row: Mapping[str, Any]) -> bool:
    """Whether every request was answered, and rightly."""
    return not (row["errors"] or row["wrong_answers"])


def is_client_limited(row: Mapping[str, Any]) -> bool:
    """Whether the row says of our client and not of the server what it can do."""
    return bool(row.get("is_client_limited"))


def _is_limited(figures: list[Figures]) -> bool:
    return max(f.client_busy for f in figures) > _BUSY


def _of(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """Variant, server and mode without the setting that was tried."""
    return row["variant"], row["target"], row["mode"].partition(",")[0]


def _row(target: Target, variant: str, found: list[Entry]) -> dict[str, Any]:
    figures = [entry.figures for entry in found]

    def middle(name: str) -> float | None:
        values = [value for f in figures if (value := getattr(f, name)) is not None]
        return float(np.median(values)) if values else None

    return {
        "target": target.name,
        "variant": variant,
        "mode": target.mode,
        "wire": target.wire,
        "batching": asdict(target.batching) if target.batching else None,
        "requests_per_s": middle("requests_per_s"),
        "share_of_floor": float(np.median([entry.share for entry in found])),
        "share_of_floor_by_cpu": float(np.median([entry.cpu_share for entry in found])),
        "p50_ms_one_in_flight": middle("p50_ms_one_in_flight"),
        "p99_ms_at_70": middle("p99_ms_at_70") if _has_tails(figures) else _pooled(figures),
        "errors": sum(f.errors for f in figures),
        "wrong_answers": sum(f.wrong_answers for f in figures),
        "alone_equals_batch": not any(f.different_alone for f in figures),
        "is_client_limited": _is_limited(figures),
        "spread": _spread(found),
        "rounds": [_round(entry) for entry in found],
        "note": _note(figures),
    }


def _round(entry: Entry) -> dict[str, Any]:
    kept = {name: value for name, value in asdict(entry.figures).items() if name != "latency_ms"}
    return {**kept, "floor_us": entry.floor_us, "share_of_floor": entry.share}


def _has_tails(figures: Sequence[Figures]) -> bool:
    """Whether each round had answers enough for a p99 of its own."""
    return all(f.p99_ms_at_70 is not None for f in figures)


def _pooled(figures: Sequence[Figures]) -> float | None:
    """The p99 at 70 % of all rounds together; None if these are too few as well."""
    return p99_or_none(np.concatenate([f.latency_ms for f in figures]))


def _spread(found: list[Entry]) -> dict[str, list[float]]:
    ranges = {
        "requests_per_s": [entry.figures.requests_per_s for entry in found],
        "share_of_floor": [entry.share for entry in found],
        "share_of_floor_by_cpu": [entry.cpu_share for entry in found],
    }
    p99s = [p99 for entry in found if (p99 := entry.figures.p99_ms_at_70) is not None]
    ranges |= {"p99_ms_at_70": p99s} if len(p99s) == len(found) else {}
    return {name: [min(values), max(values)] for name, values in ranges.items()}


def _note(figures: list[Figures]) -> str:
    """What a reader must know to judge a row."""
    if trouble := next((f.trouble for f in figures if f.trouble), ""):
        return trouble
    if _is_limited(figures):
        return "the client was the limit: the server can do more"
    if np.median([f.late_ms for f in figures]) > 1.0:
        return f"the client sent up to {max(f.late_ms for f in figures):.1f} ms late at 70 %"
    return ""
