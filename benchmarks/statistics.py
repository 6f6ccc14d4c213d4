"""Statistics of a load run: one row a request, and what a number of rows come to: throughput, latency, lateness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from swiftrec.server.arrays import Floats

OK, RESOURCE_EXHAUSTED, UNAVAILABLE = 0, 8, 14  # grpc.StatusCode
COLUMNS = ("intended", "sent", "done", "code", "tokens", "entries")
PERCENTILES = {"p50_ms": 50.0, "p95_ms": 95.0, "p99_ms": 99.0, "p999_ms": 99.9}
MIN_RESPONSES = {"p999_ms": 1_000}  # a percentile of fewer says nothing
MIN_P99_RESPONSES = 300  # with fewer the p99 is next to the slowest response
SHARE_70 = 0.7  # share of the capacity at which latencies are compared
LATE_MS = 1.0  # a send later than this counts as late


@dataclass(frozen=True, slots=True)
class RequestRows:
    """One row a request; times in seconds on one monotonic clock, `code` is the number of a gRPC status.

    `intended` is the scheduled time of an open loop; in a closed loop it equals `sent`. `tokens` are those of the
    request's texts, `entries` the recommendations (or texts) in it.
    """

    intended: Floats
    sent: Floats
    done: Floats
    code: NDArray[np.int32]
    tokens: NDArray[np.int32]
    entries: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.code)

    def columns(self) -> dict[str, NDArray[np.generic]]:
        """Arrays by name."""
        return {name: getattr(self, name) for name in COLUMNS}

    def save(self, path: Path) -> None:
        """Write an .npz file."""
        np.savez(path, **self.columns())  # type: ignore[arg-type] # the annotation has allow_pickle among the arrays

    @classmethod
    def load(cls, path: Path) -> RequestRows:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            return cls(**{name: file[name] for name in COLUMNS})

    @classmethod
    def concatenate(cls, parts: Sequence[RequestRows]) -> RequestRows:
        """The rows of several clients."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in COLUMNS))

    def within(self, start: float, end: float, *, by: str = "done") -> RequestRows:
        """The rows whose time `by` is in [start, end)."""
        moments = getattr(self, by)
        return self.only((moments >= start) & (moments < end))

    def only(self, keep: NDArray[np.bool_]) -> RequestRows:
        """The rows for which `keep` is true."""
        return RequestRows(*(getattr(self, name)[keep] for name in COLUMNS))

    def succeeded(self) -> RequestRows:
        """The rows with status OK."""
        return self.only(self.code == OK)

    def latency_ms(self) -> Floats:
        """Latencies of the successful requests, from the intended send."""
        latency: Floats = 1e3 * (self.done - self.intended)[self.code == OK]
        return latency

    def codes(self) -> dict[str, int]:
        """Number of requests by status code."""
        values, counts = np.unique(self.code, return_counts=True)
        return {str(value): int(count) for value, count in zip(values, counts, strict=True)}


@dataclass(frozen=True, slots=True)
class Summary:
    """Figures of a window.

    Throughput counts successful recommendations per second (each entry of a batch is one), goodput those within the
    SLO. Latencies are of successful requests, from the intended send, in milliseconds; NaN if there are none, and for
    the p99.9 below a thousand of them. `late` counts sends more than 1 ms late; `late_ms` and `late_p50_ms` are the p99
    and the median of the lateness.
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
        """Fields by name, for JSON."""
        return asdict(self)


def summarise(rows: RequestRows, seconds: float, slo_ms: float) -> Summary:
    """Figures of the rows of a window of `seconds`."""
    succeeded = rows.succeeded()
    latency_ms = rows.latency_ms()
    late_ms = 1e3 * (rows.sent - rows.intended)
    return Summary(
        requests=len(rows),
        failed=len(rows) - len(succeeded),
        seconds=seconds,
        throughput=float(succeeded.entries.sum() / seconds),
        goodput=float(succeeded.entries[latency_ms <= slo_ms].sum() / seconds),
        late=int((late_ms > LATE_MS).sum()),
        late_ms=_percentile(late_ms, 99.0),
        late_p50_ms=_percentile(late_ms, 50.0),
        mean_tokens=float(rows.tokens.mean()) if len(rows) else float("nan"),
        **{name: _percentile(latency_ms, share, MIN_RESPONSES.get(name, 1)) for name, share in PERCENTILES.items()},
    )


def p99_of(latency_ms: Floats) -> float:
    """The p99; NaN if there are too few latencies for one."""
    return _percentile(latency_ms, 99.0, MIN_P99_RESPONSES)


def slope_per_s(rows: RequestRows, start: float, end: float) -> float:
    """Successful recommendations per second in a window, as the slope of their running count.

    A server that batches responds in bursts, which the ends of a window would cut. Bursts that span less than half of
    the window are too few for a slope: then it is their number over the length of the window.
    """
    window = rows.succeeded().within(start, end)
    order = np.argsort(window.done, kind="stable")
    times, entries = window.done[order], window.entries[order].astype(np.float64)
    if not len(times) or times[-1] - times[0] < (end - start) / 2:
        return float(entries.sum() / (end - start))
    return float(np.polyfit(times - times[0], np.cumsum(entries), 1)[0])


def _percentile(values: Floats, share: float, minimum: int = 1) -> float:
    return float(np.percentile(values, share)) if len(values) >= minimum else float("nan")
