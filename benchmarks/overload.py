"""`swiftrec bench overload`: goodput and latency of a server under several times its capacity.

Without --variant the server runs with models of a fixed service time, so its capacity is known. With it the bundle's
models run on one core, and a closed loop just before measures the capacity. An open loop then offers a multiple of it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

import grpc
import numpy as np
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from swiftrec.benchmarks import formatting, server_process
from swiftrec.benchmarks.client import ResponseLog, arrivals
from swiftrec.benchmarks.environment import pinned
from swiftrec.benchmarks.flood import flood
from swiftrec.benchmarks.optional_deps import collect_until_error
from swiftrec.benchmarks.prometheus import ScrapedMetrics, read_metrics
from swiftrec.benchmarks.server_process import ServerProcess, extra_flags, load_cores, running_server
from swiftrec.benchmarks.statistics import OK, RESOURCE_EXHAUSTED, RequestRows
from swiftrec.benchmarks.workload import WORKLOADS, Name, make
from swiftrec.promise import Promise, missed

SERVICE_MS, _BATCH, BUDGET_MS = 50.0, 4, 400.0
CAPACITY = 1e3 * _BATCH / SERVICE_MS  # requests a second of the null server
_NULL_SERVER = f"-m swiftrec.benchmarks null-server --service-ms {SERVICE_MS} --max-batch-size {_BATCH}".split()
_NULL_SERVER += ["--sessions", "1", "--cache-mb", "0"]
_NULL_SERVER += ["--port", "0", "--metrics-port", "0", "--log-level", "error"]
NO_ADMISSION = (
    *("--queue-budget-ms", "3600000", "--default-timeout-ms", "3600000"),
    *("--max-calls", "2000", "--max-queue-requests", "1000000"),
)
_CONTROL = "no admission"
_MIN_GOODPUT, _MAX_REJECTION_MS = 0.95, 50.0
_IN_FLIGHT = 128  # recommendations, for the capacity
_MAX_PER_S = 8_000  # recommendations of a server on one core
_COUNT_TIMEOUT_S, _POLL_S = 5.0, 0.1  # until the server has counted calls that were answered
_LEAD_S = 0.1
_COUNT = "swiftrec_call_seconds_count"
_CODES = {code.name: code.value[0] for code in grpc.StatusCode}


class OverloadSettings(BaseSettings):
    """Load the server with 0.5 to 10 times its capacity and check goodput and rejections.

    Use it after a change of admission or batching. Goals: goodput at least 0.95 of the capacity, p99 of rejections at
    most 50 ms, no other status, and equal counts of the status codes in the client and in /metrics.

    Prints a row for each load; exit code 1 if a goal is missed, or if the control without admission meets all of them.
    """

    model_config = SettingsConfigDict(cli_prog_name="swiftrec bench overload", cli_kebab_case=True)

    bundle: Path = Field(Path("artifacts/movielens-quick"), description="bundle whose words and item ids are sent")
    times: list[float] = Field([0.5, 1.0, 1.5, 2.0, 5.0, 10.0], description="loads, as multiples of the capacity")
    seconds: float = Field(3.0, gt=0, description="length of each measurement")
    warmup_s: float = Field(
        1.0, ge=0, description="warm-up before each measurement; use more than the longest response time"
    )
    variant: list[str] = Field([], description="encoders to serve; if not given, models with a fixed service time")
    workload: list[Name] = Field(["query", "list"], description="workloads to send, with --variant")


@dataclass(frozen=True, slots=True)
class LoadTarget:
    """A server, a workload, and its capacity in recommendations a second; `max_ms` is the limit of the p99."""

    server: ServerProcess
    bundle: Path
    workload: Name = "words"
    capacity: float = CAPACITY
    max_ms: float = BUDGET_MS + 2 * SERVICE_MS


@dataclass(frozen=True, slots=True)
class LoadStep:
    """One load: the multiple of the capacity that was offered, and the one that was sent.

    Goodput is a share of the capacity; `accepted_ms` and `rejected_ms` are p99s of responses and rejections. `others`
    are other status codes; `counts` are the client's and the server's counts of the status codes where they differ.
    """

    times: float
    goodput: float
    accepted_ms: float
    rejected_ms: float
    rejected: int
    others: list[int]
    max_ms: float = inf
    sent: float = 0.0
    counts: dict[str, tuple[int, int]] = field(default_factory=dict)

    def goals(self, name: str = "") -> list[Promise]:
        """What is promised under this load; `name` tells it from other loads."""
        load = f"{self.times:g}x {name}".strip()
        counts = {code: f"client {ours}, server {theirs}" for code, (ours, theirs) in self.counts.items()}
        goals = [
            Promise(f"{load}: p99 of accepted, ms", self.max_ms, [self.accepted_ms], at_most=True),
            Promise(f"{load}: p99 of rejected, ms", _MAX_REJECTION_MS, [self.rejected_ms], at_most=True),
            Promise(f"{load}: other status codes, {self.others}", 0, [len(self.others)], at_most=True),
            Promise(f"{load}: status codes with unequal counts, {counts}", 0, [len(counts)], at_most=True),
        ]
        if self.times > 1:
            goals.insert(0, Promise(f"{load}: goodput as a share of the capacity", _MIN_GOODPUT, [self.goodput]))
        return goals


def run(settings: OverloadSettings) -> int:
    """Print the table; exit code 1 if a goal is missed, or if the control without admission met all of them."""
    loads, reason = collect_until_error(_served_steps(settings) if settings.variant else _steps(settings))
    head = ["load", "sent", "goodput", "p99 accepted ms", "p99 rejected ms", "rejected", "goals missed"]
    text = formatting.table(head, [_row(name, load) for name, load in loads])
    steps = [(name, load) for name, load in loads if name != _CONTROL]
    control = [line for name, load in loads if name == _CONTROL for line in missed(load.goals(name))]
    judged = [goal for name, load in steps for goal in load.goals(name)]
    if not settings.variant:
        is_measured = len(steps) < len(loads)
        judged.append(Promise("goals that the control without admission misses", 1, [len(control)] * is_measured))
    figures = {"steps": [load.goodput for _, load in steps], "counts": [load.counts for _, load in steps]}
    figures |= {"is_met": not missed(judged), "control": control}
    return formatting.finish_judged("overload", text, figures, judged, reason)


def _steps(settings: OverloadSettings) -> Iterator[tuple[str, LoadStep]]:
    """Each load with its name; the last one is the control."""
    with running_null_server(settings.bundle) as server:
        for times in settings.times:
            yield "", step(LoadTarget(server, settings.bundle), times, settings.seconds, settings.warmup_s)
        yield "after that", step(LoadTarget(server, settings.bundle), 0.5, settings.seconds, settings.warmup_s)
    with running_null_server(settings.bundle, *NO_ADMISSION) as server:
        yield _CONTROL, step(LoadTarget(server, settings.bundle), 3.0, settings.seconds, settings.warmup_s)


def _served_steps(settings: OverloadSettings) -> Iterator[tuple[str, LoadStep]]:
    """The same for each encoder and workload, with the capacity measured before each load."""
    for variant in settings.variant:
        flags = ["--bundle", str(settings.bundle), "--port", "0", "--metrics-port", "0", "--log-level", "error"]
        for name in settings.workload:
            more = extra_flags(variant, "", has_cache=WORKLOADS[name].repeats)
            with running_server(["-m", "swiftrec.server", *flags, *more]) as server, pinned(load_cores()):
                for times in settings.times:
                    capacity = _capacity(settings, server, name)
                    target = LoadTarget(server, settings.bundle, name, capacity, inf)
                    yield (
                        f"{variant} {name} of {capacity:.0f}/s",
                        step(target, times, settings.seconds, settings.warmup_s),
                    )


def _capacity(settings: OverloadSettings, server: ServerProcess, name: Name) -> float:
    """Recommendations a second of a closed loop."""
    figures = server_process.run_load_tool(
        server,
        may_reject=True,
        may_limit=True,
        workload=name,
        bundle=settings.bundle,
        in_flight=_IN_FLIGHT // WORKLOADS[name].entries,
        seconds=settings.seconds,
        requests=int(_MAX_PER_S * (1 + settings.seconds)) // WORKLOADS[name].entries,
    )
    if not figures["throughput"]:
        raise RuntimeError(f"no response within {settings.seconds:g} s of {name}: give more --seconds")
    return float(figures["throughput"])


@contextmanager
def running_null_server(bundle: Path, *flags: str) -> Iterator[ServerProcess]:
    """The server with a queue budget of 400 ms, or with these flags instead."""
    flags = flags or ("--queue-budget-ms", f"{BUDGET_MS:.0f}")
    with running_server([*_NULL_SERVER, "--bundle", str(bundle), *flags], None) as running:
        yield running


def step(target: LoadTarget, times: float, seconds: float = 3.0, warmup_s: float = 1.0) -> LoadStep:
    """One load at a multiple of the capacity."""
    rate = times * target.capacity / WORKLOADS[target.workload].entries
    due = arrivals(rate, warmup_s + seconds, 7)
    requests = make(target.workload, target.bundle, max(1, len(due)), 7)
    before = _scraped(target.server)
    start = time.monotonic() + _LEAD_S
    rows = flood(target.server.address, ResponseLog(requests), due, start)
    target.server.check()
    counts = _different(rows, before, target.server)
    return judge(rows, target, times, start + warmup_s, seconds, counts)


def judge(
    rows: RequestRows,
    target: LoadTarget,
    times: float,
    start: float,
    seconds: float,
    counts: dict[str, tuple[int, int]],
) -> LoadStep:
    """The figures of the window from `start`: goodput of what was answered in it, latencies of what was due in it."""
    end = start + seconds
    answered, due, sent = (
        rows.within(start, end),
        rows.within(start, end, by="intended"),
        rows.within(start, end, by="sent"),
    )
    return LoadStep(
        times=times,
        goodput=float(answered.entries[answered.code == OK].sum() / seconds / target.capacity),
        accepted_ms=_p99_ms(due, OK),
        rejected_ms=_p99_ms(due, RESOURCE_EXHAUSTED),
        rejected=int((due.code == RESOURCE_EXHAUSTED).sum()),
        others=sorted(set(due.code.tolist()) - {OK, RESOURCE_EXHAUSTED}),
        max_ms=target.max_ms,
        sent=float(len(sent) * WORKLOADS[target.workload].entries / seconds / target.capacity),
        counts=counts,
    )


def _scraped(server: ServerProcess) -> ScrapedMetrics:
    if server.metrics is None:
        raise RuntimeError(f"the server at {server.address} has no metrics: its counts cannot be compared")
    return read_metrics(server.metrics)


def _different(rows: RequestRows, before: ScrapedMetrics, server: ServerProcess) -> dict[str, tuple[int, int]]:
    """Status codes of which client and server counted different numbers of calls, with both numbers."""
    ours = {name: int((rows.code == code).sum()) for name, code in _CODES.items()}
    end = time.monotonic() + _COUNT_TIMEOUT_S
    while True:
        after = _scraped(server)
        theirs = {name: int(after.value(_COUNT, name) - before.value(_COUNT, name)) for name in ours}
        if ours == theirs or time.monotonic() > end:
            return {name: (ours[name], theirs[name]) for name in ours if ours[name] != theirs[name]}
        time.sleep(_POLL_S)  # a call is counted after its response was sent


def _p99_ms(rows: RequestRows, code: int) -> float:
    seconds = (rows.done - rows.intended)[rows.code == code]
    return 1e3 * float(np.percentile(seconds, 99)) if len(seconds) else 0.0


def _row(name: str, load: LoadStep) -> list[str]:
    figures = [f"{load.goodput:.3f}", f"{load.accepted_ms:.0f}", f"{load.rejected_ms:.1f}", str(load.rejected)]
    return [f"{load.times:g}x {name}".strip(), f"{load.sent:.1f}x", *figures, str(len(missed(load.goals(name))))]
