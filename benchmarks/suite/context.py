"""What all phases of a run share: the servers under measurement, the floor, the raw rows, the result so far."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from swiftrec.benchmarks import result_files, server_process
from swiftrec.benchmarks.floor import FloorMeter
from swiftrec.benchmarks.prometheus import ScrapedMetrics, metrics_between, read_metrics
from swiftrec.benchmarks.server_process import Flag, ServerProcess
from swiftrec.benchmarks.statistics import MIN_P99_RESPONSES, SHARE_70, RequestRows
from swiftrec.benchmarks.suite.result import Point, Result
from swiftrec.benchmarks.suite.results import RawRows
from swiftrec.benchmarks.suite.settings import BenchSettings
from swiftrec.benchmarks.workload import WORKLOADS, Name

_MAX_REJECTED_SHARE = 0.01  # more rejections make the figures invalid
_ECHO_REQUESTS = 2_000


class BenchContext:
    """One run. `server`, `cached` (with its cache on) and `echo` are set by the first phase."""

    def __init__(
        self, settings: BenchSettings, result: Result, raw: RawRows, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.settings, self.size, self.result, self.raw = settings, settings.run_size, result, raw
        self.server = self.cached = self.echo = ServerProcess("", None)
        self.floor: FloorMeter | None = None
        self.clock, self.began = clock, clock()
        self.folder: Path | None = None
        self.before: ScrapedMetrics | None = None
        self.after: ScrapedMetrics | None = None

    def server_of(self, name: Name) -> ServerProcess:
        """The server that a workload is measured with."""
        return self.cached if WORKLOADS[name].repeats else self.server

    def is_over(self, more_s: float = 0.0) -> bool:
        """Whether the time budget is used up, or would be in `more_s` seconds."""
        return self.clock() - self.began + more_s > self.settings.budget_s

    def keep(self) -> Path:
        """Write the result so far, marked partial.

        Raises:
            OSError: it cannot be written.
        """
        self.folder = self.folder or result_files.new_folder(self.settings.results, self.result.machine)
        unfinished = {"is_partial": True, "reason": self.result.reason or "the report was not finished"}
        result_files.save(self.folder, self.result.model_copy(update=unfinished))
        return self.folder

    def saturate(
        self, server: ServerProcess, name: Name, seed: int, *, is_echo: bool = False, **flags: Flag
    ) -> dict[str, Any]:
        """Closed loop with as many recommendations in flight as the settings say."""
        entries = WORKLOADS[name].entries
        number = flags.pop("in_flight", self.settings.in_flight // entries)
        requests = _ECHO_REQUESTS if is_echo else self.size.closed_requests
        flags |= {"loop": "closed", "in_flight": max(1, int(str(number))), "requests": max(64, requests // entries)}
        cycle = is_echo or self.settings.size == "smoke"
        figures = self._load(server, name, seed, is_echo=is_echo, cycle=cycle, **flags)
        self._require_answers(name, "closed loop", figures)
        return figures

    def offer(self, name: Name, share: float, capacity: float, seed: int) -> dict[str, Any]:
        """Open loop, Poisson, at a share of the capacity in recommendations a second."""
        rate = max(0.5, share * capacity / WORKLOADS[name].entries)
        figures = self._load(self.server_of(name), name, seed, loop="open", rate=rate)
        if share <= SHARE_70:
            self._require_answers(name, f"open loop at {share:.0%}", figures)
        return figures

    def _require_answers(self, name: Name, load: str, figures: Mapping[str, Any]) -> None:
        """Percentiles are of answered requests: with many rejections they would be too good."""
        entries = WORKLOADS[name].entries
        rejected = figures["failed"] * entries + figures["rejected"]
        if rejected > _MAX_REJECTED_SHARE * figures["requests"] * entries:
            self.result.failures.append(
                f"{name}, {load}: the server rejected more than {_MAX_REJECTED_SHARE:.0%} of the requests"
            )

    def add_point(self, figures: Mapping[str, Any], **facts: float | str) -> Point:
        """Keep a window as a point, and its rows."""
        defaults = {"loop": "open", "pattern": "poisson", "share": 0.0, "rate": 0.0, "in_flight": 0}
        point = Point.model_validate({**defaults, **figures, **facts})
        if point.requests - point.failed < MIN_P99_RESPONSES:
            point = point.model_copy(update={"p99_ms": float("nan")})
        self.raw.add(RequestRows.load(Path(figures["rows"])), point)
        Path(figures["rows"]).unlink()
        self.result.points.append(point)
        return point

    def _load(
        self, server: ServerProcess, name: Name, seed: int, *, is_echo: bool = False, **flags: Flag
    ) -> dict[str, Any]:
        """One window of load, with the server's metrics before and after it."""
        settings = self.settings
        is_unlimited = is_echo or settings.size == "smoke"  # a bottleneck does not matter there
        with tempfile.NamedTemporaryFile(suffix=".npz", delete=False) as rows:
            path = rows.name
        self.before = None if is_echo or not server.metrics else read_metrics(server.metrics)
        figures = server_process.run_load_tool(
            server,
            may_reject=True,
            may_limit=True,
            bundle=settings.bundle,
            workload=name,
            seed=seed,
            rows=path,
            slo_ms=settings.slo_ms,
            processes=settings.processes,
            max_busy=server_process.NO_LIMIT if is_unlimited else settings.max_busy,
            **({} if is_echo else settings.access.flags()),
            **{"warmup_s": self.size.warmup_s, "seconds": self.size.seconds, **flags},
        )
        self.after = None if self.before is None or not server.metrics else read_metrics(server.metrics)
        if figures["bottleneck"] and not is_unlimited:
            self.result.failures.append(f"{name}, {flags['loop']} loop: {figures['bottleneck']}")
        metrics = metrics_between(self.before, self.after) if self.before and self.after else {}
        return {**figures, "server": metrics, "rows": path, "workload": name}
