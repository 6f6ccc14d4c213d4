"""Statistics of a load run: its rows, the window that counts, a sample of its responses, and why it may be invalid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swiftrec.benchmarks.environment import CpuReading
from swiftrec.benchmarks.workload import Method
from swiftrec.server.arrays import Floats
from swiftrec.server.pb.swiftrec.v1.encoder_pb2 import EncodeResponse
from swiftrec.server.pb.swiftrec.v1.recommender_pb2 import BatchRecommendResponse, RecommendResponse

OK, RESOURCE_EXHAUSTED, UNAVAILABLE = 0, 8, 14  # grpc.StatusCode
COLUMNS = ("intended", "sent", "done", "code", "tokens", "entries")
STEPS = ("tokenise", "encode", "rank", "retrieve", "total")
PERCENTILES = {"p50_ms": 50.0, "p95_ms": 95.0, "p99_ms": 99.0, "p999_ms": 99.9}
MIN_RESPONSES = {"p999_ms": 1_000}  # a percentile of fewer says nothing
MIN_P99_RESPONSES = 300  # with fewer the p99 is next to the slowest response
SHARE_70 = 0.7  # share of the capacity at which latencies are compared
LATE_MS = 1.0  # a send later than this counts as late
_MAX_LATE_SHARE = 0.25  # of the p99: beyond it the p99 shows the lateness of the client


@dataclass(frozen=True, slots=True)
class Rows:
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
    def load(cls, path: Path) -> Rows:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            return cls(**{name: file[name] for name in COLUMNS})

    @classmethod
    def concatenate(cls, parts: Sequence[Rows]) -> Rows:
        """The rows of several clients."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in COLUMNS))

    def within(self, start: float, end: float, *, by: str = "done") -> Rows:
        """The rows whose time `by` is in [start, end)."""
        moments = getattr(self, by)
        return self.only((moments >= start) & (moments < end))

    def only(self, keep: NDArray[np.bool_]) -> Rows:
        """The rows for which `keep` is true."""
        return Rows(*(getattr(self, name)[keep] for name in COLUMNS))

    def succeeded(self) -> Rows:
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


def summarise(rows: Rows, seconds: float, slo_ms: float) -> Summary:
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


def slope_per_s(rows: Rows, start: float, end: float) -> float:
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


@dataclass(frozen=True, slots=True)
class ResponseSample:
    """What a sample of the responses says: milliseconds of each step [responses, steps], and errors in them.

    `wrong` counts responses without a result. `rejected` counts entries of batches that the server rejected with
    RESOURCE_EXHAUSTED, which is a proper response. `bundles` are those that responded, as "name/version".
    """

    steps_ms: NDArray[np.float32]
    wrong: int
    bundles: tuple[str, ...]
    rejected: int = 0

    @classmethod
    def merge(cls, parts: Sequence[ResponseSample]) -> ResponseSample:
        """The samples of several clients as one."""
        bundles = tuple(sorted({name for part in parts for name in part.bundles}))
        wrong, rejected = sum(part.wrong for part in parts), sum(part.rejected for part in parts)
        return cls(np.concatenate([part.steps_ms for part in parts]), wrong, bundles, rejected)

    def percentiles(self) -> dict[str, dict[str, float]]:
        """p50 and p99 of each step in milliseconds; empty if no response has timings."""
        if not len(self.steps_ms):
            return {}
        values = np.percentile(self.steps_ms, [50, 99], axis=0)
        return {step: {"p50_ms": float(values[0, n]), "p99_ms": float(values[1, n])} for n, step in enumerate(STEPS)}


def read_responses(method: Method, payloads: Sequence[bytes]) -> ResponseSample:
    """Decode responses. A ranking without items, an entry with an error and a vector of no length count as wrong."""
    if method == "encode":
        vectors = [EncodeResponse.FromString(payload) for payload in payloads]
        wrong = sum(len(vector.vectors) != 4 * vector.rows * vector.dimensions or not vector.rows for vector in vectors)
        return ResponseSample(np.zeros((0, len(STEPS)), np.float32), wrong, _bundles(vectors))
    is_batch = method == "batch"
    rankings = _entries(payloads) if is_batch else [RecommendResponse.FromString(payload) for payload in payloads]
    rejected = sum(len(rejected_entries(payload)) for payload in payloads) if is_batch else 0
    steps = [[getattr(ranking.timings, f"{step}_ms") for step in STEPS] for ranking in rankings if ranking.items]
    wrong = sum(not ranking.items for ranking in rankings) - rejected
    return ResponseSample(np.array(steps, np.float32).reshape(-1, len(STEPS)), wrong, _bundles(rankings), rejected)


def rejected_entries(payload: bytes) -> list[int]:
    """Positions of the entries of a BatchRecommendResponse that the server rejected because it was full."""
    results = BatchRecommendResponse.FromString(payload).results
    return [n for n, result in enumerate(results) if result.error.code == RESOURCE_EXHAUSTED]


def _entries(payloads: Sequence[bytes]) -> list[RecommendResponse]:
    """The rankings of batches; an entry with an error has one without items."""
    return [result.response for payload in payloads for result in BatchRecommendResponse.FromString(payload).results]


def _bundles(responses: Sequence[EncodeResponse] | Sequence[RecommendResponse]) -> tuple[str, ...]:
    return tuple(sorted({f"{response.bundle}/{response.version}" for response in responses if response.bundle}))


@dataclass(frozen=True, slots=True)
class Window:
    """What clients measured between the CPU readings `first` and `last`.

    `rows` are those of the whole run, warm-up included. `mean_tokens` is that of all prepared requests, sent or not. In
    a closed loop the rows that were answered in the window count, in an open loop those intended in it.
    """

    rows: Rows
    first: CpuReading
    last: CpuReading
    sample: ResponseSample
    mean_tokens: float
    is_open: bool
    clients: int = 1

    @property
    def seconds(self) -> float:
        """Length of the window."""
        return self.last.planned - self.first.planned

    def measured(self) -> Rows:
        """The rows that count."""
        return self.rows.within(self.first.planned, self.last.planned, by="intended" if self.is_open else "done")

    def answered(self) -> Rows:
        """The rows answered within the window; under overload fewer than were intended in it."""
        return self.rows.within(self.first.planned, self.last.planned)

    def between_readings(self) -> Rows:
        """The rows answered between the CPU readings: those that the CPU time was spent on."""
        return self.rows.within(self.first.moment, self.last.moment)

    def save(self, path: Path) -> None:
        """Write everything to an .npz file."""
        readings = [[r.planned, r.moment, r.server or 0.0, r.own] for r in (self.first, self.last)]
        facts = [self.mean_tokens, self.is_open, self.first.server is not None, self.sample.wrong, self.sample.rejected]
        more: dict[str, Any] = {"steps": self.sample.steps_ms, "bundles": list(self.sample.bundles)}
        np.savez(path, readings=readings, facts=facts, **more, **self.rows.columns())  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> Window:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            tokens, is_open, has_server, wrong, rejected = file["facts"].tolist()
            sample = ResponseSample(file["steps"], int(wrong), tuple(file["bundles"].tolist()), int(rejected))
            rows = Rows(*(file[name] for name in COLUMNS))
            first, last = (
                CpuReading(planned, moment, server if has_server else None, own)
                for planned, moment, server, own in file["readings"].tolist()
            )
        return cls(rows, first, last, sample, tokens, bool(is_open))


def merge_windows(windows: Sequence[Window]) -> Window:
    """The windows of several clients that ran at the same time as one; the first client watched the server."""
    first = windows[0]
    own = sum(window.last.own - window.first.own for window in windows)
    return Window(
        rows=Rows.concatenate([window.rows for window in windows]),
        first=replace(first.first, own=0.0),
        last=replace(first.last, own=own),
        sample=ResponseSample.merge([window.sample for window in windows]),
        mean_tokens=float(np.mean([window.mean_tokens for window in windows if window.mean_tokens] or [0.0])),
        is_open=first.is_open,
        clients=len(windows),
    )


def window_figures(window: Window, slo_ms: float, max_busy: float, max_late_ms: float, cores: int) -> dict[str, Any]:
    """The summary of a window, and the CPU time of server and clients for each successful recommendation.

    Args:
        window: what was measured.
        slo_ms: a response within it counts as goodput.
        max_busy: share of their cores beyond which the clients are the bottleneck.
        max_late_ms: median lateness of sends beyond which they are, too.
        cores: number of cores that the clients share.

    Returns:
        `Summary` by field and: `throughput` of what was answered within the window; `mix`, the mean tokens of the
        answered requests over those of all requests (below 1 the window saw more short texts than were sent); `busy`,
        the share of their cores that the clients used; `bottleneck`, a sentence if the clients limited the run.
    """
    summary = summarise(window.measured(), window.seconds, slo_ms)
    answered, done = window.answered().succeeded(), window.between_readings().succeeded()
    number = max(1, int(done.entries.sum()))
    client_cpu = window.last.own - window.first.own
    span = window.last.moment - window.first.moment
    busy = client_cpu / (span * min(window.clients, cores))
    return {
        **summary.as_dict(),
        "throughput": float(answered.entries.sum() / window.seconds),
        **_server_figures(window, number, span),
        "client_us": 1e6 * client_cpu / number,
        "busy": busy,
        "mix": float(done.tokens.mean() / window.mean_tokens) if len(done) and window.mean_tokens else 1.0,
        "codes": window.rows.codes(),
        "steps": window.sample.percentiles(),
        "wrong": window.sample.wrong,
        "rejected": window.sample.rejected,
        "bundles": list(window.sample.bundles),
        "bottleneck": bottleneck(summary, busy, max_busy, max_late_ms),
    }


def _server_figures(window: Window, number: int, span: float) -> dict[str, float | None]:
    if window.first.server is None or window.last.server is None:
        return {"server_us": None, "server_busy": None}
    server_cpu = window.last.server - window.first.server
    return {"server_us": 1e6 * server_cpu / number, "server_busy": server_cpu / span}


def bottleneck(summary: Summary, busy: float, max_busy: float, max_late_ms: float) -> str:
    """Why the client and not the server limited the run; empty if it did not."""
    late_ms, late_p50_ms, p99_ms = summary.late_ms, summary.late_p50_ms, summary.p99_ms
    if busy > max_busy:
        return f"the client is the bottleneck: it used {busy:.0%} of its cores; give it more cores and --processes"
    if late_p50_ms > max_late_ms:
        return f"the client is the bottleneck: half of its sends were more than {late_p50_ms:.0f} ms late"
    if late_ms > LATE_MS and not late_ms <= _MAX_LATE_SHARE * p99_ms:
        return f"the client is the bottleneck: 1 % of the sends were {late_ms:.1f} ms late, the p99 is {p99_ms:.1f} ms"
    return ""
