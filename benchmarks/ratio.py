"""`swiftrec bench ratio`: how much of a server's CPU time is the work itself.

Work ratio = (floor per text + echo per request) / server per request. Echo is grpcio's server with its thread pool;
one without can pass it, so 1.0 is no limit. With --stub: the server with models that cost nothing, divided by echo;
its floor is the tokenising, which the echo server does not do. All parts are measured in turn within one run,
since the speed of a shared machine changes within minutes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from swiftrec.benchmarks import report
from swiftrec.benchmarks.extra import gathered
from swiftrec.benchmarks.measure import NO_LIMIT, floor, load
from swiftrec.benchmarks.process import more_flags, serving
from swiftrec.benchmarks.workload import KINDS, Name

_STUB_TARGET = 1.5
_SERVER_FIGURES = ("server_us", "throughput", "mix", "p50_ms", "p99_ms")
_ECHO_REQUESTS = 2_000  # sent again and again: it has no cache


class RatioSettings(BaseSettings):
    """Work ratio of the server: (floor + echo) / server, CPU time per request, measured side by side."""

    model_config = SettingsConfigDict(
        cli_prog_name="swiftrec bench ratio", cli_kebab_case=True, cli_implicit_flags=True
    )

    bundle: Path = Field(Path("artifacts/movielens-quick"), description="bundle, or folder of versions")
    variant: str | None = Field(None, description="encoder, e.g. bert3-int8; the bundle's default if not given")
    repeats: int = Field(3, ge=1, description="rounds of floor, echo and server")
    in_flight: int = Field(64, ge=1, le=4_096, description="requests in flight, for echo and server")
    seconds: float = Field(10.0, gt=0, description="length of one measurement")
    warmup_s: float = Field(5.0, ge=0, description="load before each")
    workload: Name = Field("words", description="what is sent: see benchmarks/workload.py")
    texts: int = Field(1_000, ge=1, description="requests of the floor")
    requests: int = Field(50_000, ge=32, description="recommendations or texts at hand for the server in a round")
    seed: int = Field(7, description="of the first round's texts; the next round takes the next")
    echo_front: Literal["threads", "aio"] = Field("threads", description="front of the echo server")
    server_flags: str = Field("", description='more flags of the server, as one word: --server-flags="--sessions 2"')
    stub: bool = Field(False, description="server with models that cost nothing, divided by echo")
    service_ms: float = Field(0.0, ge=0, description="with --stub: time that a model takes for a batch")


@dataclass(frozen=True, slots=True)
class Round:
    """CPU time in microseconds: per text offline, per request of the echo server, per request of the server.

    With a stub `floor_us` is that of tokenising alone.
    `throughput` is the server's, in requests per second; `mix` is the mean size of the texts that it answered over
    that of all texts: the floor is for the whole mix and is scaled by it, since a text costs by its length.
    """

    floor_us: float
    echo_us: float
    server_us: float
    throughput: float
    mix: float
    p50_ms: float
    p99_ms: float

    @property
    def work_ratio(self) -> float:
        """(floor + echo) / server."""
        return (self.floor_us * self.mix + self.echo_us) / self.server_us

    @property
    def overhead(self) -> float:
        """Server / echo."""
        return self.server_us / self.echo_us


def run(settings: RatioSettings) -> int:
    """Measure every part once a round and write the table; 1 if it ended before the last round."""
    rounds, reason = gathered(_round(settings, settings.seed + n) for n in range(settings.repeats))
    name = "overhead" if settings.stub else "work_ratio"
    values = [getattr(entry, name) for entry in rounds]
    rows = [[str(n), *_cells(entry), f"{getattr(entry, name):.3f}"] for n, entry in enumerate(rounds, 1)]
    rows.append(["median", *_medians(rounds), report.spread(values, 3)])
    text = report.table(
        ["round", "floor us", "echo us", "server us", "requests/s", "mix", "p50 ms", "p99 ms", name], rows
    )
    figures = {
        name: float(np.median(values)),
        "values": values,
        "rounds": [asdict(entry) for entry in rounds],
        "settings": settings.model_dump(mode="json"),
    }
    return report.ended("ratio", f"{text}\n{_verdict(settings, rounds)}", figures, reason)


def _round(settings: RatioSettings, seed: int) -> Round:
    floor_us = _floor(settings, seed)
    echo = _load(settings, seed, ["-m", "swiftrec.benchmarks", "echo", *_echo(settings)], cycle=True)
    server = _load(settings, seed, _server(settings))
    return Round(floor_us, echo["server_us"], **{name: server[name] for name in _SERVER_FIGURES})


def _floor(settings: RatioSettings, seed: int) -> float:
    """CPU time per text offline in microseconds, from a process of its own; with a stub that of tokenising alone."""
    found = floor(
        bundle=settings.bundle,
        variant=settings.variant,
        workload=settings.workload,
        texts=max(1, settings.texts // KINDS[settings.workload].entries),
        seed=seed,
        batch=[16] if settings.stub else None,
    )
    return float(found["tokenise_us" if settings.stub else "floor_us"])


def _server(settings: RatioSettings) -> list[str]:
    which = ["benchmarks", "stub", "--service-ms", str(settings.service_ms)] if settings.stub else ["server"]
    flags = ["--bundle", str(settings.bundle), "--port", "0", "--metrics-port", "0", "--sessions", "1"]
    has_cache = KINDS[settings.workload].repeats
    return ["-m", *which, *flags, *more_flags(settings.variant, settings.server_flags, has_cache=has_cache)]


def _echo(settings: RatioSettings) -> list[str]:
    if KINDS[settings.workload].method == "encode":
        return ["--front", settings.echo_front]
    return ["--bundle", str(settings.bundle)]


def _load(settings: RatioSettings, seed: int, server: Sequence[str], *, cycle: bool = False) -> dict[str, Any]:
    kind = KINDS[settings.workload]
    with serving(server) as served:
        return load(
            served,
            max_busy=NO_LIMIT if cycle or settings.stub else None,
            cycle=cycle,
            workload=settings.workload,
            bundle=settings.bundle,
            in_flight=max(1, settings.in_flight // kind.entries),
            seconds=settings.seconds,
            warmup_s=settings.warmup_s,
            requests=_ECHO_REQUESTS if cycle else settings.requests // kind.entries,
            seed=seed,
        )


def _cells(entry: Round) -> list[str]:
    cells = [f"{us:.0f}" for us in (entry.floor_us, entry.echo_us, entry.server_us, entry.throughput)]
    return [*cells, f"{entry.mix:.3f}", f"{entry.p50_ms:.1f}", f"{entry.p99_ms:.1f}"]


def _medians(rounds: Sequence[Round]) -> list[str]:
    names = ("floor_us", "echo_us", *_SERVER_FIGURES)
    return [report.spread([getattr(entry, name) for entry in rounds], 3 if name == "mix" else None) for name in names]


def _verdict(settings: RatioSettings, rounds: Sequence[Round]) -> str:
    share = report.spread([entry.work_ratio for entry in rounds], 3)
    if not settings.stub:
        return f"work ratio (floor + echo) / server: {share}; echo has grpcio's thread pool"
    overhead = report.spread([entry.overhead for entry in rounds], 3)
    return f"server / echo: {overhead}; target at most {_STUB_TARGET}. (tokenising + echo) / server: {share}"
