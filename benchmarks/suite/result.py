"""`result.json`: what a run found. `swiftrec bench schema` prints these classes as a JSON schema."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, computed_field

from swiftrec.benchmarks.bundle_id import BundleId

SCHEMA = 1


Figure = Annotated[float, BeforeValidator(lambda value: float("nan") if value is None else value)]
"""A figure; null in JSON if it is not there."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore")


class Repeated(_Part):
    """A figure over the rounds."""

    values: list[Figure] = Field(description="one for each round, in order")

    @computed_field(description="the median over the rounds")  # type: ignore[prop-decorator]
    @property
    def median(self) -> float:
        """Over the rounds."""
        return float(np.median(self.values)) if self.values else float("nan")

    @property
    def span(self) -> float:
        """From the least to the most."""
        return max(self.values) - min(self.values) if self.values else 0.0


class Client(_Part):
    """The load generator's own limit, against a bare server."""

    ceiling_per_s: float = Field(description="requests per second that the clients' cores are good for")
    reached_per_s: float = Field(description="requests per second that were answered while it was measured")
    client_us: float = Field(description="CPU of a client for one request, microseconds")
    processes: int


class Point(_Part):
    """One window of load. Rates and throughputs count recommendations."""

    workload: str
    loop: str = Field(description="open or closed")
    pattern: str = Field(description="poisson, constant; closed loop: none")
    round: int
    share: float = Field(description="of the capacity of the same round (open loop); 0 in a closed loop")
    rate: float = Field(description="recommendations intended per second (open loop); 0 in a closed loop")
    in_flight: int = Field(description="requests in flight (closed loop); 0 in an open loop")
    requests: int
    failed: int
    refused: int = Field(0, description="entries of lists that were turned away")
    throughput: float = Field(description="good answers that came within the window, per second")
    goodput: float = Field(description="good answers per second within the SLO")
    p50_ms: Figure
    p95_ms: Figure
    p99_ms: Figure = Field(description="null below 300 good answers")
    p999_ms: Figure = Field(description="null below 1,000 good answers")
    late: int = Field(description="sends more than 1 ms after their time")
    late_ms: Figure = Field(description="p99 of how late sends were")
    busy: float = Field(description="share of their cores that the clients used")
    server_us: float | None = Field(description="CPU of the server for a recommendation, microseconds")
    server_busy: float | None = Field(description="cores that the server used")
    steps: dict[str, dict[str, Figure]] = Field(description="milliseconds of each step, from the replies")
    server: dict[str, float] = Field(description="from /metrics: batch size, padding, cache hits, memory")


class Workload(_Part):
    """One workload at saturation (closed loop), and at 70 % of it (open loop). CPU in microseconds a recommendation."""

    version: int
    floor_us: Repeated = Field(description="offline, one thread, sorted by length, best batch; of texts as they came")
    echo_us: Repeated = Field(description="a bare gRPC server with the same reply")
    server_us: Repeated
    work_ratio: Repeated = Field(description="(floor + echo) / server; above 1 the cache saved work")
    per_s_core: Repeated = Field(description="recommendations per CPU second of the server, at saturation")
    p99_ms_at_70: Repeated = Field(description="one of all rounds together where one alone has below 300 answers")
    batch_jobs: Repeated = Field(description="texts in a batch of the encoder, mean")
    padding: Repeated = Field(description="share of padding in a batch of the encoder, mean")
    cache_hits: Repeated = Field(description="share of texts that needed no encoding")
    has_cache: bool | None = Field(None, description="whether the server's cache was on; null: not known")


class Peers(_Part):
    """Other servers on the same job: written by `make bench-peers`."""

    req_per_s_core: dict[str, dict[str, float]] = {}
    p99_ms_at_70: dict[str, dict[str, float]] = {}
    skipped: dict[str, str] = Field({}, description="peer -> why it could not be run")
    is_partial: bool = Field(False, description="whether a server, a mode or a round of one is missing")
    rows: list[dict[str, Any]] = Field([], description="everything else that was measured of them")
    tries: list[dict[str, Any]] = Field([], description="settings that were tried, by --tries: which is the best")

    @classmethod
    def of(
        cls,
        rows: list[dict[str, Any]],
        skipped: dict[str, str],
        tries: list[dict[str, Any]],
        *,
        is_partial: bool = False,
    ) -> Peers:
        """With the figures that stand in the rows."""
        rates: dict[str, dict[str, float]] = {}
        tails: dict[str, dict[str, float]] = {}
        for row in rows:
            for into, figure in ((rates, row["requests_per_s"]), (tails, row["p99_ms_at_70"])):
                if figure is not None:
                    into.setdefault(f"{row['target']} {row['mode']}", {})[row["variant"]] = figure
        return cls(
            req_per_s_core=rates, p99_ms_at_70=tails, skipped=skipped, is_partial=is_partial, rows=rows, tries=tries
        )


class Result(_Part):
    """One run."""

    schema_version: int = SCHEMA
    is_partial: bool = Field(True, description="whether something is missing; `reason` says why")
    reason: str = "the run has not ended"
    failures: list[str] = Field([], description="what makes the figures worthless: a client that was the bottleneck")
    notes: list[str] = Field([], description="what a reader has to know")
    started: str
    seconds: float = 0.0
    machine: dict[str, str]
    commit: str
    settings: dict[str, Any]
    bundle: dict[str, str] = Field(
        {}, description="name, version and export_key: of everything in this file; variant and device of the run"
    )
    main: str = Field("", description="workload of the curve, the ladder and the scenarios")
    client: Client | None = None
    startup_s: Repeated = Field(Repeated(values=[]), description="process start to first good answer")
    memory_mb: float = 0.0
    workloads: dict[str, Workload] = {}
    points: list[Point] = Field([], description="latency-throughput curve and ladder")
    batch_sizes: dict[str, float] = Field({}, description="upper edge of batch size -> batches, main workload")
    knee_per_s: float = Field(
        0.0, description="highest rate whose p99 is at most three times its median up to half load"
    )
    scenarios: dict[str, dict[str, Figure]] = Field({}, description="MLPerf's SingleStream, Server, Offline")
    parts: dict[str, Any] = Field({}, description="tokeniser, session grid, batcher, index, serialisation, alone")
    teacher: dict[str, Any] = Field({}, description="written by swiftrec bench teacher")
    peers: Peers = Peers()
    catalogue: list[dict[str, Any]] = Field([], description="rows by catalogue size: swiftrec bench catalogue")

    @property
    def bundle_id(self) -> BundleId | None:
        """The bundle that everything in this result was measured with; None if it names none."""
        return BundleId.read(self.bundle)
