"""What all phases of a run share: the servers under measurement, the floor, the rows, the result so far."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from swiftrec.benchmarks import measure
from swiftrec.benchmarks.floor import FloorMeter
from swiftrec.benchmarks.process import Served
from swiftrec.benchmarks.scrape import Scrape, between, scrape
from swiftrec.benchmarks.suite import store
from swiftrec.benchmarks.suite.raw import Raw
from swiftrec.benchmarks.suite.result import Point, Result
from swiftrec.benchmarks.suite.settings import BenchSettings
from swiftrec.benchmarks.summary import AT_70, FEWEST_P99, Rows
from swiftrec.benchmarks.workload import KINDS, Name

_FEW = 0.01  # refusals that do not matter


class Bench:
    """One run. `server`, `cached` (with its cache on) and `echo` are set by the first phase."""

    def __init__(
        self, settings: BenchSettings, result: Result, raw: Raw, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.settings, self.plan, self.result, self.raw = settings, settings.plan, result, raw
        self.server = self.cached = self.echo = Served("", None)
        self.floor: FloorMeter | None = None
        self.clock, self.began = clock, clock()
        self.folder: Path | None = None
        self.before: Scrape | None = None
        self.after: Scrape | None = None

    def of(self, name: Name) -> Served:
        """The server that a workload is measured with."""
        return self.cached if KINDS[name].repeats else self.server

    def is_over(self, more_s: float = 0.0) -> bool:
        """Whether the budget is used up, or would be in so many seconds."""
        return self.clock() - self.began + more_s > self.settings.budget_s

    def keep(self) -> Path:
        """Write what there is so far, marked partial: whatever comes, it is there.

        Raises:
            OSError: it cannot be written.
        """
        self.folder = self.folder or store.new_folder(self.settings.results, self.result.machine)
        unfinished = {"is_partial": True, "reason": self.result.reason or "the report was not finished"}
        store.save(self.folder, self.result.model_copy(update=unfinished))
        return self.folder

    def saturate(self, served: Served, name: Name, seed: int, *, is_echo: bool = False, **flags: Any) -> dict[str, Any]:  # noqa: ANN401
        """Closed loop; as many recommendations in flight as the settings say."""
        kind = KINDS[name]
        number = max(1, flags.pop("in_flight", max(1, self.settings.in_flight // kind.entries)))
        requests = 2_000 if is_echo else self.plan.closed_requests
        flags |= {"loop": "closed", "in_flight": number, "requests": max(64, requests // kind.entries)}
        cycle = is_echo or self.settings.size == "smoke"
        found = self._load(served, name, seed, is_echo=is_echo, may_refuse=True, cycle=cycle, **flags)
        self._must_answer(name, "closed loop", found)
        return found

    def offer(self, name: Name, share: float, capacity: float, seed: int) -> dict[str, Any]:
        """Open loop, Poisson, at a share of the capacity in recommendations a second."""
        rate = max(0.5, share * capacity / KINDS[name].entries)
        found = self._load(self.of(name), name, seed, loop="open", rate=rate, may_refuse=True)
        if share <= AT_70:
            self._must_answer(name, f"open loop at {share:.0%}", found)
        return found

    def _must_answer(self, name: Name, load: str, found: Mapping[str, Any]) -> None:
        """Percentiles are of what was answered: where much is refused, they are of the lucky ones."""
        entries = KINDS[name].entries
        if found["failed"] * entries + found["refused"] > _FEW * found["requests"] * entries:
            self.result.failures.append(f"{name}, {load}: the server refused more than {_FEW:.0%} of what was asked")

    def point(self, found: Mapping[str, Any], **facts: Any) -> Point:  # noqa: ANN401
        """Keep a window as a point, and its rows."""
        defaults = {"loop": "open", "pattern": "poisson", "share": 0.0, "rate": 0.0, "in_flight": 0}
        point = Point.model_validate({**defaults, **found, **facts})
        if point.requests - point.failed < FEWEST_P99:
            point = point.model_copy(update={"p99_ms": float("nan")})
        self.raw.add(Rows.load(Path(found["rows"])), point)
        Path(found["rows"]).unlink()
        self.result.points.append(point)
        return point

    def _load(
        self,
        served: Served,
        name: Name,
        seed: int,
        *,
        is_echo: bool = False,
        may_refuse: bool = False,
        **flags: Any,  # noqa: ANN401
    ) -> dict[str, Any]:
        settings, smoke = self.settings, self.settings.size == "smoke"
        free = is_echo or smoke  # who limits whom does not matter there
        with tempfile.NamedTemporaryFile(suffix=".npz", delete=False) as rows:
            path = rows.name
        self.before = None if is_echo or not served.metrics else scrape(served.metrics)
        found = measure.load(
            served,
            may_refuse=may_refuse,
            may_limit=True,
            bundle=settings.bundle,
            workload=name,
            seed=seed,
            rows=path,
            slo_ms=settings.slo_ms,
            processes=settings.processes,
            max_busy=measure.NO_LIMIT if free else settings.max_busy,
            **({} if is_echo else settings.access.flags()),
            **{"warmup_s": self.plan.warmup_s, "seconds": self.plan.seconds, **flags},
        )
        self.after = None if self.before is None or not served.metrics else scrape(served.metrics)
        if found["bottleneck"] and not free:
            self.result.failures.append(f"{name}, {flags['loop']} loop: {found['bottleneck']}")
        server = between(self.before, self.after) if self.before and self.after else {}
        return {**found, "server": server, "rows": path, "workload": name}
