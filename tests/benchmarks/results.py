"""Results with known figures, for the tests of reports and tables."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from swiftrec.benchmarks import result_files
from swiftrec.benchmarks.catalogue.comparison import CatalogueRow, RequestFigures, SearchFigures
from swiftrec.benchmarks.catalogue.result import CatalogueResult
from swiftrec.benchmarks.peers.results import PeerResults, PeerSettingsResult, PeersResult, RoundResult
from swiftrec.benchmarks.result_files import ToolResult
from swiftrec.benchmarks.suite.result import Point, Repeated, Result, Workload
from swiftrec.benchmarks.teacher import TeacherResult
from tests.benchmarks.peers import BUNDLE_ID, fake, figures

BUNDLE = BUNDLE_ID.fields() | {"variant": "int8"}
MACHINE = {"cpu": "Test (family 1)", "cores": "2", "load": "0", "commit": "abc"}
HEADER: dict[str, Any] = {
    "is_partial": False,
    "reason": "",
    "started": "2026-01-01T00:00:00Z",
    "machine": MACHINE,
    "commit": "abc",
    "bundle": BUNDLE,
}


def repeated(*values: float) -> Repeated:
    return Repeated(values=list(values))


def workload(
    floor: float = 1_000.0, server: float = 1_250.0, p99: float = 50.0, noise: float = 0.01, echo: float = 150.0
) -> Workload:
    spread = (1 - noise, 1.0, 1 + noise)
    figures: dict[str, Repeated] = {name: repeated() for name in ("batch_jobs", "padding", "cache_hits")}
    return Workload(
        version=1,
        floor_us=repeated(floor, floor, floor),
        echo_us=repeated(echo, echo, echo),
        server_us=repeated(*(server * n for n in spread)),
        work_ratio=repeated(*((floor + echo) / (server * n) for n in spread)),
        per_s_core=repeated(*(1e6 / (server * n) for n in spread)),
        p99_ms_at_70=repeated(*(p99 * n for n in spread)),
        **figures,
    )


def result(**changed: object) -> Result:
    values: dict[str, Any] = {
        **HEADER,
        "settings": {"size": "full", "slo_ms": 100.0, "p99_bound_ms": 100.0},
        "startup_s": repeated(3.0, 3.1, 3.2),
        "workloads": {"mixed": workload()},
        "main": "mixed",
        "alone_p50_ms": 2.0,
        "batch_per_s": 400.0,
    }
    return Result(**(values | changed))


def peers_result(rows: list[dict[str, Any]], **changed: object) -> PeersResult:
    return PeersResult(**(HEADER | {"rows": rows} | changed))


def settings_result(rows: list[dict[str, Any]], **changed: object) -> PeerSettingsResult:
    return PeerSettingsResult(**(HEADER | {"rows": rows} | changed))


def catalogue_result(rows: list[dict[str, Any]] | None = None, **changed: object) -> CatalogueResult:
    return CatalogueResult(**(HEADER | {"rows": [asdict(catalogue_row())] if rows is None else rows} | changed))


def teacher_result(**changed: object) -> TeacherResult:
    figures = {"rate_ratio": [9.0, 11.0], "cpu_ratio": [4.0], "p99_bound_ms": 100.0}
    return TeacherResult(**(HEADER | {"figures": figures} | changed))


def save(results: Path, name: str, *stored: ToolResult) -> Path:
    """Write results into the folder `results/name`."""
    folder = results / name
    folder.mkdir(parents=True, exist_ok=True)
    for tool_result in stored:
        result_files.save(folder, tool_result)
    return folder


def folders(results: Path) -> list[Path]:
    return sorted(results.iterdir()) if results.exists() else []


def point(share: float, p99_ms: float, round_: int = 1, failed: int = 0) -> Point:
    return Point(
        workload="mixed", loop="open", pattern="poisson", round=round_, share=share, rate=100 * share, in_flight=0,
        requests=1_000, failed=failed, throughput=100 * share, goodput=0, p50_ms=1, p95_ms=1, p99_ms=p99_ms, p999_ms=1,
        late=0, late_ms=0, busy=0.1, server_us=None, server_busy=None, steps={}, server={},
    )  # fmt: skip


def peer(target: str, variant: str = "bert3-int8") -> dict[str, Any]:
    measured = PeerResults(1)
    measured.add(variant, fake(target), RoundResult(figures(), 1_000.0))
    return measured.rows()[0]


def catalogue_row() -> CatalogueRow:
    search = {"all": SearchFigures(0.99512, 0.99634, 0.9, 1, 2)}
    return CatalogueRow(1_000, "exact", 1, 0, 10, 0, search, {"ids": RequestFigures(1, 2, 1, [1.0, 1.2])})
