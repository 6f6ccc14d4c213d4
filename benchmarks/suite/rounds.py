"""The interleaved rounds: in each one floor, bare server and server for every workload, then the open-loop curve."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from swiftrec.benchmarks.environment import pinned
from swiftrec.benchmarks.prometheus import batch_sizes
from swiftrec.benchmarks.server_process import SERVER_CORE
from swiftrec.benchmarks.statistics import SHARE_70, p99_of
from swiftrec.benchmarks.suite.context import BenchContext
from swiftrec.benchmarks.suite.result import Repeated, Workload
from swiftrec.benchmarks.workload import WORKLOADS, Name, make

_AFTER_ROUNDS_S = 80.0  # duration of the phases after the rounds in a full run
_METRICS = ("batch_jobs", "padding", "cache_hits")
_FIELDS = ("floor_us", "echo_us", "server_us", "work_ratio", "per_s_core", "p99_ms_at_70", *_METRICS)


@dataclass(frozen=True, slots=True)
class OfflineCost:
    """The floor of some requests: microseconds a recommendation for the encoder and for the rest; mean tokens.

    `grows` is the share of the encoder's cost that grows with the tokens.
    """

    encode_us: float
    rest_us: float
    tokens: float
    grows: float = 1.0

    def for_texts(self, tokens: float) -> float:
        """The floor of requests of this mean length: a few hundred requests are longer or shorter than those served."""
        more = tokens / self.tokens - 1.0 if self.tokens and tokens else 0.0
        return self.encode_us * (1.0 + self.grows * more) + self.rest_us


class Rounds:
    """Runs rounds and keeps the figures of each in the result.

    Args:
        bench: what is measured.
        progress: receives a line for each step.
    """

    def __init__(self, bench: BenchContext, progress: Callable[[str], None]) -> None:
        self._bench, self._progress = bench, progress
        self._figures: dict[Name, dict[str, list[float]]] = {name: defaultdict(list) for name in bench.settings.names}

    def run(self, number: int) -> None:
        """At most `number` rounds, as many as the time budget allows.

        Raises:
            RuntimeError: the budget was used up before the end of the first round; its figures are kept.
        """
        longest, clock = 0.0, self._bench.clock
        for round_ in range(1, number + 1):
            started = clock()
            if longest and self._bench.is_over(longest + _AFTER_ROUNDS_S):
                self._bench.result.notes.append(
                    f"{round_ - 1} of {number} rounds: the rest did not fit into the budget"
                )
                return
            self._round(round_)
            longest = max(longest, clock() - started)

    def _round(self, round_: int) -> None:
        seed = self._bench.settings.seed + 1_000 * round_
        capacity = {name: self._saturated(name, round_, seed + n) for n, name in enumerate(self._figures)}
        main = self._bench.settings.main
        for n, share in enumerate(self._bench.size.shares):
            self._offered(main, share, capacity[main], round_, seed + 100 + n)
        for n, name in enumerate(self._figures):
            if name != main or SHARE_70 not in self._bench.size.shares:
                self._offered(name, SHARE_70, capacity[name], round_, seed + 200 + n)
        self._keep()

    def _saturated(self, name: Name, round_: int, seed: int) -> float:
        """Floor, bare server, server: one after the other, so that all are measured on the same machine state."""
        self._check_time(round_)
        bench, figures = self._bench, self._figures[name]
        self._progress(f"round {round_}: {name} at saturation")
        offline = self._floor_and_echo(name, seed) if bench.server.pid is not None else None
        window = bench.saturate(bench.server_of(name), name, seed)
        in_flight = max(1, bench.settings.in_flight // WORKLOADS[name].entries)
        point = bench.add_point(window, loop="closed", pattern="", round=round_, in_flight=in_flight)
        if bench.before and bench.after and name == bench.settings.main:
            bench.result.batch_sizes = batch_sizes(bench.before, bench.after)
        for key in _METRICS:
            if key in window["server"]:
                figures[key].append(window["server"][key])
        bench.result.memory_mb = max(bench.result.memory_mb, window["server"].get("memory_mb", 0.0))
        if offline is not None:
            self._add_costs(figures, offline.for_texts(window["mean_tokens"]), cost_us(window, bench.settings.device))
        return max(1.0, point.throughput)

    def _add_costs(self, figures: dict[str, list[float]], floor_us: float, server_us: float) -> None:
        figures["floor_us"].append(floor_us)
        figures["server_us"].append(server_us)
        figures["per_s_core"].append(1e6 / server_us if server_us else float("nan"))
        figures["work_ratio"].append((floor_us + figures["echo_us"][-1]) / server_us)

    def _floor_and_echo(self, name: Name, seed: int) -> OfflineCost | None:
        bench = self._bench
        number = max(2, bench.size.floor_requests // WORKLOADS[name].entries)
        requests, offline = make(name, bench.settings.bundle, number, seed), None
        with pinned(SERVER_CORE):
            if bench.floor is not None:
                floor = bench.floor.measure(requests, seconds=bench.size.floor_s)
                tokens = float(requests.tokens.mean())
                offline = OfflineCost(floor.encode_us, floor.rank_us + floor.search_us, tokens, floor.grows)
        echo = bench.saturate(bench.echo, name, seed, is_echo=True)
        Path(echo["rows"]).unlink()
        self._figures[name]["echo_us"].append(echo["server_us"])
        return offline

    def _offered(self, name: Name, share: float, capacity: float, round_: int, seed: int) -> None:
        self._progress(f"round {round_}: {name} at {share:.0%} of {capacity:.0f}/s")
        self._check_time(round_)
        window = self._bench.offer(name, share, capacity, seed)
        point = self._bench.add_point(window, share=share, rate=share * capacity, round=round_)
        if share == SHARE_70:
            self._figures[name]["p99_ms_at_70"].append(point.p99_ms)

    def _check_time(self, round_: int) -> None:
        """No window of the first round starts after the budget; a later round starts only if the whole of it fits."""
        if round_ == 1 and self._bench.is_over():
            self._keep()
            raise RuntimeError(
                f"the first round did not fit into {self._bench.settings.budget_s:g} s: measure fewer --workloads, or "
                "give a larger --budget-s"
            )

    def _keep(self) -> None:
        for name, figures in self._figures.items():
            if not any(figures.values()):
                continue
            repeated = {field: Repeated(values=figures[field]) for field in _FIELDS}
            if np.isnan(figures["p99_ms_at_70"]).any():
                repeated["p99_ms_at_70"] = self._pooled(name)
            has_cache = None if self._bench.settings.target else WORKLOADS[name].repeats
            workload = Workload(version=WORKLOADS[name].version, has_cache=has_cache, **repeated)
            self._bench.result.workloads[name] = workload
        self._bench.keep()

    def _pooled(self, name: Name) -> Repeated:
        """The p99 at 70 % of all rounds together, with a note; empty if they have too few responses as well."""
        p99_ms, notes = p99_of(self._bench.raw.latencies(name, SHARE_70)), self._bench.result.notes
        note = f"{name}: a round has too few responses, the p99 at {SHARE_70:.0%} is of all rounds together"
        if np.isnan(p99_ms):
            return Repeated(values=[])
        if note not in notes:
            notes.append(note)
        return Repeated(values=[p99_ms])


def cost_us(window: Mapping[str, Any], device: str) -> float:
    """Microseconds a recommendation: CPU time; on a GPU, where CPU time says little, wall time at saturation."""
    return float(window["server_us"]) if device == "cpu" else 1e6 / max(1e-9, window["throughput"])
