"""Rows of a load run and what they add up to."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

OK = 0
_COLUMNS = ("intended", "sent", "done", "code", "size")
PERCENTILES = {"p50_ms": 50.0, "p95_ms": 95.0, "p99_ms": 99.0, "p999_ms": 99.9}


@dataclass(frozen=True, slots=True)
class Rows:
    """One row a request; times in seconds on one monotonic clock, `code` the number of a gRPC status, `size` in bytes.

    `intended` is when an open loop wanted to send; in a closed loop it equals `sent`. `size` is that of the request.
    """

    intended: NDArray[np.float64]
    sent: NDArray[np.float64]
    done: NDArray[np.float64]
    code: NDArray[np.int32]
    size: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.code)

    def save(self, path: Path) -> None:
        """Write an .npz file."""
        np.savez(path, **{name: getattr(self, name) for name in _COLUMNS})

    @classmethod
    def load(cls, path: Path) -> Rows:
        """Read what `save` wrote."""
        with np.load(path) as file:
            return cls(**{name: file[name] for name in _COLUMNS})

    def within(self, start: float, end: float, *, by: str = "done") -> Rows:
        """The rows whose time `by` lies in [start, end)."""
        moments = getattr(self, by)
        keep = (moments >= start) & (moments < end)
        return Rows(*(getattr(self, name)[keep] for name in _COLUMNS))


@dataclass(frozen=True, slots=True)
class Summary:
    """A window of rows in figures.

    Throughput counts good answers per second, goodput those within the SLO. Latencies are of good answers, from the
    intended send time, in milliseconds; NaN if there are none.
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
    late_ms: float
    mean_bytes: float

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return asdict(self)


def summarise(rows: Rows, seconds: float, slo_ms: float) -> Summary:
    """Figures of the rows of a window of `seconds`; `late_ms` is the p99 by which the sender was late."""
    good = rows.code == OK
    latency_ms = 1e3 * (rows.done - rows.intended)[good]
    late_ms = 1e3 * (rows.sent - rows.intended)
    return Summary(
        requests=len(rows),
        failed=int(len(rows) - good.sum()),
        seconds=seconds,
        throughput=float(good.sum() / seconds),
        goodput=float((latency_ms <= slo_ms).sum() / seconds),
        late_ms=_percentile(late_ms, PERCENTILES["p99_ms"]),
        mean_bytes=float(rows.size.mean()) if len(rows) else float("nan"),
        **{name: _percentile(latency_ms, share) for name, share in PERCENTILES.items()},
    )


def _percentile(values: NDArray[np.float64], share: float) -> float:
    return float(np.percentile(values, share)) if len(values) else float("nan")
