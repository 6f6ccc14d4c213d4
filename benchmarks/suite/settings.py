"""Settings of `swiftrec bench`, and how much is measured in a full run and in a smoke run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from swiftrec.benchmarks.connection import AccessSettings
from swiftrec.benchmarks.result_files import RESULTS
from swiftrec.benchmarks.workload import Name


@dataclass(frozen=True, slots=True)
class RunSize:
    """How much is measured.

    Times are in seconds. `shares` are of the capacity measured in the same round; `in_flight_steps` are the numbers of
    requests in flight in closed loops after the rounds.
    """

    workloads: tuple[Name, ...]
    rounds: int
    warmup_s: float
    seconds: float
    floor_requests: int
    floor_s: float
    shares: tuple[float, ...]
    in_flight_steps: tuple[int, ...]
    starts: int
    part_s: float
    cells: int
    closed_requests: int


SIZES: dict[str, RunSize] = {
    "full": RunSize(
        workloads=("short", "mixed", "history", "hot", "list"),
        rounds=3,
        warmup_s=1.0,
        seconds=4.0,
        floor_requests=200,
        floor_s=2.5,
        shares=(0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0, 1.15),
        in_flight_steps=(1, 2, 4, 8, 16, 32, 64, 128),
        starts=3,
        part_s=0.2,
        cells=5,
        closed_requests=40_000,
    ),
    "smoke": RunSize(
        workloads=("mixed", "list"),
        rounds=1,
        warmup_s=0.2,
        seconds=0.6,
        floor_requests=32,
        floor_s=0.1,
        shares=(0.5, 0.7),
        in_flight_steps=(1, 8),
        starts=1,
        part_s=0.005,
        cells=2,
        closed_requests=4_000,
    ),
}


class BenchSettings(AccessSettings):
    """Measure CPU per request, latency by load, start-up and memory of a bundle's server, and write a report.

    Use it to measure a bundle on this machine: 10 minutes at most on 2 cores; --size smoke only tries it out. Prints
    tables and the result as JSON; writes bench.json, report.html and raw rows into a new folder of results. The work
    ratio is (floor + echo) / server: the share of the server's CPU time that is the work itself.
    """

    model_config = SettingsConfigDict(cli_prog_name="swiftrec bench", cli_kebab_case=True, cli_implicit_flags=True)

    size: Literal["full", "smoke"] = Field("full", description="smoke: takes seconds; do not use its figures")
    bundle: Path = Field(Path("artifacts/movielens-quick"), description="bundle, or folder of versions")
    variant: str | None = Field(
        None, description="encoder, e.g. bert3-int8, or only its precision; if not given, the bundle's default"
    )
    device: Literal["cpu", "cuda"] = Field("cpu", description="where the models run (cuda: never run on a GPU yet)")
    target: str | None = Field(None, description="HOST:PORT: measure a running server instead of starting one")
    metrics: str | None = Field(None, description="HOST:PORT of the metrics of --target")
    workloads: list[Name] = Field(
        [], description="measure only these workloads, the curve with mixed or the first; see benchmarks/workload.py"
    )
    rounds: int = Field(0, ge=0, le=100, description="number of rounds over all workloads; 0: as in --size")
    in_flight: int = Field(64, ge=1, le=4_096, description="recommendations in flight at saturation")
    slo_ms: float = Field(100.0, gt=0, description="latency limit of responses that count as goodput")
    p99_bound_ms: float = Field(100.0, gt=0, description="report the highest rate whose p99 stays within it")
    processes: int = Field(1, ge=1, le=64, description="number of load generator processes")
    max_busy: float = Field(0.9, gt=0, description="share of its cores above which the client counts as the bottleneck")
    server_flags: str = Field("--sessions 1", description='flags for the server, in quotes: --server-flags="..."')
    budget_s: float = Field(570.0, gt=0, description="time limit; do not start a round or window that would exceed it")
    seed: int = Field(7, ge=0, description="random seed")
    results: Path = Field(RESULTS, description="folder of results")

    @model_validator(mode="after")
    def _access_needs_target(self) -> Self:
        if not self.target and any(self.access.flags().values()):
            raise ValueError("--tls-ca and --token-file are for a running server: give --target as well")
        return self

    @property
    def run_size(self) -> RunSize:
        """How much is measured."""
        return SIZES[self.size]

    @property
    def names(self) -> tuple[Name, ...]:
        """The workloads."""
        return tuple(self.workloads) or self.run_size.workloads

    @property
    def main(self) -> Name:
        """The workload of the curve, the closed-loop steps and the latency alone: *mixed* if it is measured."""
        return "mixed" if "mixed" in self.names else self.names[0]
