"""Runs of `swiftrec bench` with simulated raw rows, for the tests of the comparison of two runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from swiftrec.benchmarks import result_files
from swiftrec.benchmarks.statistics import RequestRows
from swiftrec.benchmarks.suite.result import Point, Repeated, Workload
from swiftrec.benchmarks.suite.results import MeasuredRun, RawRows
from tests.benchmarks.results import result

_SECONDS = 4.0
_SLO_MS = 100.0


@dataclass(frozen=True, slots=True)
class Server:
    """A server to be measured: what its figures are, and how they vary.

    Attributes:
        server_us: CPU of a recommendation.
        floor_us: of the same offline.
        tail: factor on the slowest 3 % of the answers.
        speed: factor on its rates.
        machine: factor on all costs and times, the bare server's included.
        cost_noise: of CPU costs between rounds, as the standard deviation of the logarithm.
        noise: of latencies and rates between rounds, likewise.
        answers: in each window.
    """

    server_us: float = 1_250.0
    floor_us: float = 1_000.0
    tail: float = 1.0
    speed: float = 1.0
    machine: float = 1.0
    cost_noise: float = 0.01
    noise: float = 0.05
    answers: int = 1_000


def simulate(
    server: Server = Server(),
    seed: int = 0,
    *,
    names: Sequence[str] = ("mixed",),
    shares: Sequence[float] = (0.7,),
    rounds: int = 3,
    **changed: Any,  # noqa: ANN401
) -> MeasuredRun:
    """A run: in each round saturation and `shares` of it for each workload, overload for the first one."""
    random, raw, workloads = np.random.default_rng(seed), RawRows(), {}
    for name in names:
        workloads[name] = _workload(server, rounds, random)
        for number in range(1, rounds + 1):
            _add(raw, server, name, "closed", 0.0, number, random)
            for share in shares:
                _add(raw, server, name, "open", share, number, random)
    for number in range(1, rounds + 1):
        _add(raw, server, names[0], "open", 1.15, number, random)
    facts: dict[str, Any] = {
        "workloads": workloads,
        "points": [point for _, point in raw.windows],
        "main": names[0],
        "settings": {"size": "full", "slo_ms": _SLO_MS},
        "startup_s": Repeated(values=_varied(3.0, server.cost_noise, rounds, random)),
        "memory_mb": 100.0,
        "alone_p50_ms": 2.0,
        "batch_per_s": 4_000.0 * server.speed / server.machine,
    }
    return MeasuredRun(result(**(facts | changed)), raw)


def saved(folder: Path, run: MeasuredRun) -> Path:
    """Write a run as `swiftrec bench` does."""
    folder.mkdir(parents=True)
    result_files.save(folder, run.result)
    run.raw.write(folder)
    return folder


def _varied(value: float, noise: float, rounds: int, random: np.random.Generator) -> list[float]:
    return [float(item) for item in value * np.exp(noise * random.standard_normal(rounds))]


def _workload(server: Server, rounds: int, random: np.random.Generator) -> Workload:
    floor_us, server_us, echo_us = (
        Repeated(values=_varied(value, server.cost_noise, rounds, random))
        for value in (server.machine * us for us in (server.floor_us, server.server_us, 150.0))
    )
    ratios = zip(floor_us.values, echo_us.values, server_us.values, strict=True)
    none = Repeated(values=[])
    return Workload(
        version=1,
        floor_us=floor_us,
        echo_us=echo_us,
        server_us=server_us,
        work_ratio=Repeated(values=[(floor + echo) / ours for floor, echo, ours in ratios]),
        per_s_core=Repeated(values=[1e6 / ours for ours in server_us.values]),
        p99_ms_at_70=none,
        batch_jobs=none,
        padding=none,
        cache_hits=none,
    )


def _add(
    raw: RawRows, server: Server, name: str, loop: str, share: float, number: int, random: np.random.Generator
) -> None:
    """A window: requests at random times, answered in log-normal times around 10 ms."""
    intended = np.sort(random.uniform(0.0, _SECONDS, server.answers))
    latency_ms = 10.0 * np.exp(server.noise * random.standard_normal() + 0.5 * random.standard_normal(server.answers))
    latency_ms *= server.machine
    latency_ms[latency_ms > np.quantile(latency_ms, 0.97)] *= server.tail
    ones = np.ones(server.answers, np.int32)
    rows = RequestRows(intended, intended, intended + 1e-3 * latency_ms, 0 * ones, 16 * ones, ones)
    rate = (
        server.speed
        / server.machine
        * server.answers
        / _SECONDS
        * float(np.exp(server.noise * random.standard_normal()))
    )
    raw.add(rows, _point(name, loop, share, number, rate, latency_ms))


def _point(name: str, loop: str, share: float, number: int, rate: float, latency_ms: Any) -> Point:  # noqa: ANN401
    p50_ms, p99_ms = np.percentile(latency_ms, [50, 99])
    return Point(
        workload=name, loop=loop, pattern="poisson" if loop == "open" else "", round=number, share=share,
        rate=rate if loop == "open" else 0.0, in_flight=0, requests=len(latency_ms), failed=0, throughput=rate,
        goodput=rate, p50_ms=p50_ms, p95_ms=p99_ms, p99_ms=p99_ms, p999_ms=p99_ms, late=0, late_ms=0.0, busy=0.1,
        server_us=None, server_busy=None, steps={}, server={},
    )  # fmt: skip
