"""The interleaved rounds: in each one floor, bare server and server for every workload, then the open-loop curve."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from swiftrec.benchmarks.machine import pinned
from swiftrec.benchmarks.process import SERVER_CORE
from swiftrec.benchmarks.scrape import batch_sizes
from swiftrec.benchmarks.suite.bench import Bench
from swiftrec.benchmarks.suite.result import Repeated, Workload
from swiftrec.benchmarks.summary import AT_70, p99_of
from swiftrec.benchmarks.workload import KINDS, Name, make

_REST_S = 80.0  # what follows the rounds in a full run
_COSTS = ("floor_us", "echo_us", "server_us", "work_ratio", "per_s_core")
_FIELDS = (*_COSTS, "p99_ms_at_70", "batch_jobs", "padding", "cache_hits")


@dataclass(frozen=True, slots=True)
class Offline:
    """The floor of some requests: microseconds a recommendation of the encoder's way and of the rest; mean tokens.

    `grows` is the share of the encoder's way that grows with the tokens.
    """

    encode_us: float
    rest_us: float
    tokens: float
    grows: float = 1.0

    def for_texts(self, tokens: float) -> float:
        """The floor of requests of so many tokens: a few hundred requests are longer or shorter than what is served."""
        more = tokens / self.tokens - 1.0 if self.tokens and tokens else 0.0
        return self.encode_us * (1.0 + self.grows * more) + self.rest_us


class Rounds:
    """Runs rounds and keeps the figures of each in the result.

    Args:
        bench: what is measured.
        say: hears what is going on.
    """

    def __init__(self, bench: Bench, say: Callable[[str], None]) -> None:
        self._bench, self._say = bench, say
        self._found: dict[Name, dict[str, list[float]]] = {name: defaultdict(list) for name in bench.settings.names}

    def run(self, number: int) -> None:
        """At most `number` rounds, as many as the budget has room for.

        Raises:
            RuntimeError: not even the first was through when the budget was used up; what it has found is kept.
        """
        longest, clock = 0.0, self._bench.clock
        for round_ in range(1, number + 1):
            started = clock()
            if longest and self._bench.is_over(longest + _REST_S):
                self._bench.result.notes.append(
                    f"{round_ - 1} of {number} rounds: the rest did not fit into the budget"
                )
                return
            self._round(round_)
            longest = max(longest, clock() - started)

    def _round(self, round_: int) -> None:
        seed = self._bench.settings.seed + 1_000 * round_
        capacity = {name: self._saturated(name, round_, seed + n) for n, name in enumerate(self._found)}
        main = self._bench.settings.main
        for n, share in enumerate(self._bench.plan.shares):
            self._say(f"round {round_}: {main} at {share:.0%} of {capacity[main]:.0f}/s")
            self._offered(main, share, capacity[main], round_, seed + 100 + n)
        for n, name in enumerate(self._found):
            if name != main or AT_70 not in self._bench.plan.shares:
                self._say(f"round {round_}: {name} at {AT_70:.0%} of {capacity[name]:.0f}/s")
                self._offered(name, AT_70, capacity[name], round_, seed + 200 + n)
        self._keep()

    def _saturated(self, name: Name, round_: int, seed: int) -> float:
        """Floor, bare server, server: one after the other, so that all see the same machine."""
        self._check_time(round_)
        bench, figures = self._bench, self._found[name]
        self._say(f"round {round_}: {name} at saturation")
        offline = self._floor_and_echo(name, seed) if bench.server.pid is not None else None
        found = bench.saturate(bench.of(name), name, seed)
        point = bench.point(found, loop="closed", pattern="", round=round_, in_flight=_in_flight(bench, name))
        if bench.before and bench.after and name == bench.settings.main:
            bench.result.batch_sizes = batch_sizes(bench.before, bench.after)
        for key in ("batch_jobs", "padding", "cache_hits"):
            if key in found["server"]:
                figures[key].append(found["server"][key])
        bench.result.memory_mb = max(bench.result.memory_mb, found["server"].get("memory_mb", 0.0))
        if offline is not None:
            server_us = cost_us(found, bench.settings.device)
            floor_us = offline.for_texts(found["mean_tokens"])
            figures["floor_us"].append(floor_us)
            figures["server_us"].append(server_us)
            figures["per_s_core"].append(1e6 / server_us if server_us else float("nan"))
            figures["work_ratio"].append((floor_us + figures["echo_us"][-1]) / server_us)
        return max(1.0, point.throughput)

    def _floor_and_echo(self, name: Name, seed: int) -> Offline | None:
        bench, figures = self._bench, self._found[name]
        number = max(2, bench.plan.floor_requests // KINDS[name].entries)
        asked, offline = make(name, bench.settings.bundle, number, seed), None
        with pinned(SERVER_CORE):
            if bench.floor is not None:
                found = bench.floor.measure(asked, seconds=bench.plan.floor_s)
                rest_us, tokens = found.rank_us + found.search_us, float(asked.tokens.mean())
                offline = Offline(found.encode_us, rest_us, tokens, found.grows)
        echo = bench.saturate(bench.echo, name, seed, is_echo=True)
        Path(echo["rows"]).unlink()
        figures["echo_us"].append(echo["server_us"])
        return offline

    def _offered(self, name: Name, share: float, capacity: float, round_: int, seed: int) -> None:
        self._check_time(round_)
        found = self._bench.offer(name, share, capacity, seed)
        point = self._bench.point(found, share=share, rate=share * capacity, round=round_)
        if share == AT_70:
            self._found[name]["p99_ms_at_70"].append(point.p99_ms)

    def _check_time(self, round_: int) -> None:
        """No window of the first round begins behind the budget; a later round began since the whole of it fits."""
        if round_ == 1 and self._bench.is_over():
            self._keep()
            raise RuntimeError(
                f"the first round did not fit into {self._bench.settings.budget_s:g} s: measure fewer --workloads, or "
                "give a larger --budget-s"
            )

    def _keep(self) -> None:
        for name, figures in self._found.items():
            if not any(figures.values()):
                continue
            repeated = {field: Repeated(values=figures[field]) for field in _FIELDS}
            if np.isnan(figures["p99_ms_at_70"]).any():
                repeated["p99_ms_at_70"] = self._pooled(name)
            has_cache = None if self._bench.settings.target else KINDS[name].repeats
            self._bench.result.workloads[name] = Workload(version=KINDS[name].version, has_cache=has_cache, **repeated)
        self._bench.keep()

    def _pooled(self, name: Name) -> Repeated:
        """The p99 at 70 % of all rounds together, said in a note; none if these are too few as well."""
        p99_ms, notes = p99_of(self._bench.raw.latencies(name, AT_70)), self._bench.result.notes
        note = f"{name}: too few answers in a round, the p99 at {AT_70:.0%} is of all rounds together"
        if np.isnan(p99_ms):
            return Repeated(values=[])
        if note not in notes:
            notes.append(note)
        return Repeated(values=[p99_ms])


def cost_us(found: Mapping[str, Any], device: str) -> float:
    """Microseconds a recommendation: CPU time; on a GPU, where CPU time says little, wall time at saturation."""
    return float(found["server_us"]) if device == "cpu" else 1e6 / max(1e-9, found["throughput"])


def _in_flight(bench: Bench, name: Name) -> int:
    return max(1, bench.settings.in_flight // KINDS[name].entries)
