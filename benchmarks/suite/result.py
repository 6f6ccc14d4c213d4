"""`bench.json`, the result of `swiftrec bench`."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, computed_field

from swiftrec.benchmarks.result_files import Number, ToolResult

_NAN = float("nan")


class _Section(BaseModel):
    model_config = ConfigDict(extra="ignore")


class Repeated(_Section):
    """A figure over the rounds."""

    values: list[Number] = Field(description="one for each round, in order")

    @computed_field(description="the median over the rounds")  # type: ignore[prop-decorator]
    @property
    def median(self) -> float:
        """Median over the rounds."""
        return float(np.median(self.values)) if self.values else _NAN


class Client(_Section):
    """The limit of the load generator, measured against a bare server."""

    ceiling_per_s: float = Field(description="requests per second that the clients' cores can send")
    reached_per_s: float = Field(description="requests per second that were answered while it was measured")
    client_us: float = Field(description="CPU of a client for one request, microseconds")
    processes: int


class Point(_Section):
    """One window of load. Rates and throughputs count recommendations."""

    workload: str
    loop: str = Field(description="open or closed")
    pattern: str = Field(description="poisson, constant; empty in a closed loop")
    round: int
    share: float = Field(description="of the capacity of the same round (open loop); 0 in a closed loop")
    rate: float = Field(description="recommendations intended per second (open loop); 0 in a closed loop")
    in_flight: int = Field(description="requests in flight (closed loop); 0 in an open loop")
    requests: int
    failed: int
    rejected: int = Field(0, description="entries of batches that were rejected")
    throughput: float = Field(description="successful recommendations answered within the window, per second")
    goodput: float = Field(description="successful recommendations per second within the SLO")
    p50_ms: Number
    p95_ms: Number
    p99_ms: Number = Field(description="null below 300 successful responses")
    p999_ms: Number = Field(description="null below 1,000 successful responses")
    late: int = Field(description="sends more than 1 ms after their time")
    late_ms: Number = Field(description="p99 of the lateness of sends")
    busy: float = Field(description="share of their cores that the clients used")
    server_us: float | None = Field(description="CPU of the server for a recommendation, microseconds")
    server_busy: float | None = Field(description="cores that the server used")
    steps: dict[str, dict[str, Number]] = Field(description="milliseconds of each step, from the responses")
    server: dict[str, float] = Field(description="from /metrics: batch size, padding, cache hits, memory")


class Workload(_Section):
    """One workload at saturation (closed loop), and at 70 % of it (open loop). CPU in microseconds a recommendation."""

    version: int
    floor_us: Repeated = Field(description="offline, one thread, sorted by length, best batch size")
    echo_us: Repeated = Field(description="a bare gRPC server with the same response")
    server_us: Repeated
    work_ratio: Repeated = Field(description="(floor + echo) / server; above 1 the cache saved work")
    per_s_core: Repeated = Field(description="recommendations per CPU second of the server, at saturation")
    p99_ms_at_70: Repeated = Field(description="of all rounds together if one has below 300 successful responses")
    batch_jobs: Repeated = Field(description="mean number of texts in a batch of the encoder")
    padding: Repeated = Field(description="mean share of padding in a batch of the encoder")
    cache_hits: Repeated = Field(description="share of texts that needed no encoding")
    has_cache: bool | None = Field(None, description="whether the server's cache was on; null: unknown")


class Result(ToolResult):
    """One run of `swiftrec bench`."""

    file: ClassVar[str] = "bench.json"
    tool: ClassVar[str] = "swiftrec bench"

    failures: list[str] = Field([], description="why the figures are invalid, such as a client that was the bottleneck")
    notes: list[str] = Field([], description="what a reader has to know")
    seconds: float = 0.0
    main: str = Field("", description="workload of the curve, the closed-loop steps and the latency alone")
    client: Client | None = None
    startup_s: Repeated = Field(Repeated(values=[]), description="process start to first successful response")
    memory_mb: float = 0.0
    workloads: dict[str, Workload] = Field({}, description="figures by workload")
    points: list[Point] = Field([], description="latency-throughput curve and closed-loop steps")
    batch_sizes: dict[str, float] = Field({}, description="upper edge of batch size -> batches, main workload")
    knee_per_s: float = Field(
        0.0, description="highest rate whose p99 is at most three times its median up to half load"
    )
    bound_per_s: Number = Field(_NAN, description="highest rate whose p99 stays within --p99-bound-ms")
    alone_p50_ms: Number = Field(_NAN, description="p50 with one request in flight")
    alone_p90_ms: Number = Field(_NAN, description="p90 with one request in flight")
    batch_per_s: Number = Field(_NAN, description="recommendations per second in BatchRecommend calls of 32")
    parts: dict[str, Any] = Field({}, description="tokeniser, session, queue, index, serialisation: measured alone")
