"""`python -m benchmarks fronts`: which front costs less, thread pool or grpc.aio, with and without a worker thread."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from benchmarks import report
from benchmarks.extra import gathered
from benchmarks.measure import NO_LIMIT, load
from benchmarks.process import Served, serving

_FIGURES = ("server_us", "client_us", "throughput", "p50_ms", "p99_ms")


class FrontsSettings(BaseSettings):
    """Compare the two fronts of gRPC in Python: CPU per request, p50, p99, at several numbers in flight."""

    model_config = SettingsConfigDict(cli_prog_name="python -m benchmarks fronts", cli_kebab_case=True)

    bundle: Path = Field(Path("artifacts/movielens-quick"), description="bundle whose item texts are sent")
    in_flight: list[int] = Field([1, 16, 64, 256], description="requests in flight")
    repeats: int = Field(3, ge=1, description="rounds over all servers")
    seconds: float = Field(3.0, gt=0, description="length of one measurement")
    service_ms: float = Field(5.0, ge=0, description="also with a worker that takes this long for a batch; 0: without")


@dataclass(frozen=True, slots=True)
class Variant:
    """One server: its name in the table and its flags."""

    name: str
    flags: tuple[str, ...]


def run(settings: FrontsSettings) -> int:
    """Measure, interleaved over the repeats, and write the table; 1 if it ended early."""
    found: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    each, reason = gathered(one for _ in range(settings.repeats) for one in _round(settings))
    for name, in_flight, figures in each:
        found.setdefault((name, in_flight), []).append(figures)
    rows = [{"front": n, "in_flight": f, **_medians(rounds)} for (n, f), rounds in found.items()]
    return report.ended("fronts", _table(found), {"fronts": rows}, reason)


def _variants(service_ms: float) -> list[Variant]:
    kinds = [("", ()), (" + hop", ("--hop",))]
    if service_ms:
        kinds.append((f" + hop of {service_ms:g} ms", ("--hop", "--service-ms", str(service_ms))))
    return [
        Variant(f"{front}{name}", ("-m", "benchmarks", "echo", "--front", front, *flags))
        for name, flags in kinds
        for front in ("threads", "aio")
    ]


def _round(settings: FrontsSettings) -> Iterator[tuple[str, int, Mapping[str, Any]]]:
    for variant in _variants(settings.service_ms):
        with serving(variant.flags) as served:
            for in_flight in settings.in_flight:
                yield variant.name, in_flight, _load(served, settings, in_flight)


def _load(served: Served, settings: FrontsSettings, in_flight: int) -> Mapping[str, Any]:
    return load(served, max_busy=NO_LIMIT, bundle=settings.bundle, in_flight=in_flight, seconds=settings.seconds)


def _table(found: Mapping[tuple[str, int], Sequence[Mapping[str, Any]]]) -> str:
    rows = [
        [name, str(in_flight), *(report.spread([figures[column] for figures in rounds]) for column in _FIGURES)]
        for (name, in_flight), rounds in sorted(found.items(), key=lambda entry: entry[0][1])
    ]
    return report.table(["front", "in flight", *_FIGURES], rows)


def _medians(rounds: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return {name: float(np.median([r[name] for r in rounds])) for name in _FIGURES}
