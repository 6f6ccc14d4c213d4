"""Rows of a load run and what they add up to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

OK, RESOURCE_EXHAUSTED, UNAVAILABLE = 0, 8, 14  # grpc.StatusCode
COLUMNS = ("intended", "sent", "done", "code", "tokens", "entries")
PERCENTILES = {"p50_ms": 50.0, "p95_ms": 95.0, "p99_ms": 99.0, "p999_ms": 99.9}
FEWEST = {"p999_ms": 1_000}  # answers that a percentile needs
FEWEST_P99 = 300  # answers behind a p99 that is told: with fewer it is next to the slowest of them
AT_70 = 0.7  # of the capacity: where latencies are compared
LATE_MS = 1.0  # a send later than this is counted as late


@dataclass(frozen=True, slots=True)
class Rows:
    """One row a request; times in seconds on one monotonic clock, `code` the number of a gRPC status.

    `intended` is when an open loop wanted to send; in a closed loop it equals `sent`. `tokens` are those of the
    request's texts, `entries` the recommendations (or texts) in it.
    """

    intended: NDArray[np.float64]
    sent: NDArray[np.float64]
    done: NDArray[np.float64]
    code: NDArray[np.int32]
    tokens: NDArray[np.int32]
    entries: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.code)

    def columns(self) -> dict[str, NDArray[np.generic]]:
        """By name."""
        return {name: getattr(self, name) for name in COLUMNS}

    def save(self, path: Path) -> None:
        """Write an .npz file."""
        np.savez(path, **self.columns())  # type: ignore[arg-type] # the stub has allow_pickle among the arrays

    @classmethod
    def load(cls, path: Path) -> Rows:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            return cls(**{name: file[name] for name in COLUMNS})

    @classmethod
    def joined(cls, parts: Sequence[Rows]) -> Rows:
        """The rows of several clients as one run's."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in COLUMNS))

    def within(self, start: float, end: float, *, by: str = "done") -> Rows:
        """The rows whose time `by` lies in [start, end)."""
        moments = getattr(self, by)
        return self.only((moments >= start) & (moments < end))

    def only(self, keep: NDArray[np.bool_]) -> Rows:
        """Those rows."""
        return Rows(*(getattr(self, name)[keep] for name in COLUMNS))

    def latency_ms(self) -> NDArray[np.float64]:
        """Of good answers, from the intended send."""
        latency: NDArray[np.float64] = 1e3 * (self.done - self.intended)[self.code == OK]
        return latency

    def codes(self) -> dict[str, int]:
        """How many requests ended with which status code."""
        values, counts = np.unique(self.code, return_counts=True)
        return {str(value): int(count) for value, count in zip(values, counts, strict=True)}


@dataclass(frozen=True, slots=True)
class Summary:
    """A window of rows in figures.

    Throughput counts good answers per second (each entry of a list is one), goodput those within the SLO. Latencies are
    of good answers, from the intended send time, in milliseconds; NaN if there are none, and for p99.9 below a thousand
    of them. `late` is the number of sends more than 1 ms after their time, `late_ms` the p99 and `late_p50_ms` the
    median of by how much.
    """

    requests: int
    failed: int
    seconds: float
    throughput: float
    goodput: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    p999_ms: float
    late: int
    late_ms: float
    late_p50_ms: float
    mean_tokens: float

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return asdict(self)


def summarise(rows: Rows, seconds: float, slo_ms: float) -> Summary:
    """Figures of the rows of a window of `seconds`."""
    good = rows.code == OK
    latency_ms = rows.latency_ms()
    late_ms = 1e3 * (rows.sent - rows.intended)
    return Summary(
        requests=len(rows),
        failed=int(len(rows) - good.sum()),
        seconds=seconds,
        throughput=float(rows.entries[good].sum() / seconds),
        goodput=float(rows.entries[good][latency_ms <= slo_ms].sum() / seconds),
        late=int((late_ms > LATE_MS).sum()),
        late_ms=_percentile(late_ms, 99.0),
        late_p50_ms=_percentile(late_ms, 50.0),
        mean_tokens=float(rows.tokens.mean()) if len(rows) else float("nan"),
        **{name: _percentile(latency_ms, share, FEWEST.get(name, 1)) for name, share in PERCENTILES.items()},
    )


def p99_of(latency_ms: NDArray[np.float64]) -> float:
    """That of a round, or of several together; NaN of too few answers."""
    return _percentile(latency_ms, 99.0, FEWEST_P99)


def _percentile(values: NDArray[np.float64], share: float, fewest: int = 1) -> float:
    return float(np.percentile(values, share)) if len(values) >= fewest else float("nan")
