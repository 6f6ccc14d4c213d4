"""`swiftrec bench load`: requests with many in flight, from separate client processes.

Closed loop: each response is followed by the next request, N in flight. Open loop: Poisson or constant arrivals at a
rate, sent whether or not responses arrive, latency counted from the intended time. A run whose client was the
bottleneck fails. `run_load` is the loop behind every tool that puts a server under load.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic_settings import CliSuppress, SettingsConfigDict

from swiftrec.benchmarks import formatting
from swiftrec.benchmarks.client import ClosedLoop, Pattern, ResponseLog, SendRequest, arrivals, connected, open_loop
from swiftrec.benchmarks.connection import AccessSettings, check_source
from swiftrec.benchmarks.environment import CpuMeter, CpuReading, ReadCpu, cpu_reader, read_cpu
from swiftrec.benchmarks.hdr import write_log
from swiftrec.benchmarks.recording import Recording
from swiftrec.benchmarks.responses import read_responses
from swiftrec.benchmarks.server_process import tool_command
from swiftrec.benchmarks.statistics import UNAVAILABLE, RequestRows
from swiftrec.benchmarks.window import Window, merge_windows, window_figures
from swiftrec.benchmarks.workload import PATHS, WORKLOADS, MethodName, Name, Requests, make

_SAMPLE_EVERY = 8  # of single requests; of batches every response is kept
_LEAD_S, _TOGETHER_LEAD_S = 0.05, 0.2
_LAST_REQUESTS = 3  # if all of them were UNAVAILABLE, the server has gone
_READY = "ready"


class LoadSettings(AccessSettings):
    """Measure throughput, latency and CPU time of a running server under load.

    Use it to measure one server at one load. Prints requests per second, percentiles and the server's step times;
    the last line is JSON.
    """

    model_config = SettingsConfigDict(cli_prog_name="swiftrec bench load", cli_kebab_case=True, cli_implicit_flags=True)

    target: str = Field(description="HOST:PORT of the server")
    bundle: Path = Field(Path("artifacts/movielens-quick"), description="bundle whose words and item ids are sent")
    workload: Name = Field("words", description="requests to send: see benchmarks/workload.py")
    recording: Path | None = Field(None, description="replay this recording (open loop, at its arrival times)")
    speed: float = Field(1.0, gt=0, le=1_000, description="speed of a replay: 2 sends twice as fast")
    loop: Literal["closed", "open"] = Field(
        "closed", description="closed: a fixed number in flight; open: a fixed arrival rate"
    )
    in_flight: int = Field(64, ge=1, le=4_096, description="requests in flight (closed loop)")
    rate: float = Field(100.0, gt=0, le=100_000, description="requests per second (open loop)")
    pattern: Pattern = Field("poisson", description="distribution of arrivals (open loop)")
    warmup_s: float = Field(1.0, ge=0, description="seconds of load before the measured window")
    seconds: float = Field(5.0, gt=0, description="length of the measured window")
    requests: int = Field(50_000, ge=1, description="number of requests prepared for a closed loop; each is sent once")
    cycle: bool = Field(False, description="send the prepared requests repeatedly (closed loop)")
    slo_ms: float = Field(100.0, gt=0, description="a response within it counts as goodput")
    seed: int = Field(7, description="random seed of requests and arrivals")
    processes: int = Field(1, ge=1, le=64, description="number of client processes")
    part: CliSuppress[int] = Field(0, ge=0, description="number of this client, set by the parent process")
    parts: CliSuppress[int] = Field(1, ge=1, description="number of clients, set by the parent process")
    window: CliSuppress[Path | None] = Field(None, description=".npz file of the window, set by the parent process")
    watch: int | None = Field(None, description="id of a process whose CPU time to measure")
    rows: Path | None = Field(None, description="write the raw rows of the window to this .npz file")
    hdr: Path | None = Field(None, description="write latencies (microseconds) as a HdrHistogram log")
    max_busy: float = Field(0.9, gt=0, description="share of its cores above which the client counts as the bottleneck")
    max_late_ms: float = Field(
        5.0, gt=0, description="median send delay above which the client counts as the bottleneck (open loop)"
    )


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """What one client sends.

    Attributes:
        requests: to send.
        due: when each is due in seconds from the start; None: a closed loop.
        warmup_s: seconds before the window.
        seconds: length of the window.
        in_flight: requests in flight (closed loop).
        cycle: send the prepared requests repeatedly (closed loop).
    """

    requests: Requests
    due: NDArray[np.float64] | None
    warmup_s: float
    seconds: float
    in_flight: int = 1
    cycle: bool = False


class LoadRun(NamedTuple):
    """Rows of a run, and CPU readings when idle before it, at both ends of the window, and when idle after it."""

    rows: RequestRows
    before: CpuReading
    first: CpuReading
    last: CpuReading
    after: CpuReading


def run_load(
    send: SendRequest, plan: LoadPlan, log: ResponseLog, read_server: ReadCpu, start: float | None = None
) -> LoadRun:
    """Send what is planned from `start` on (monotonic clock; None: at once), and measure.

    Raises:
        RuntimeError: the requests were used up, or a response is overdue.
    """
    with no_collections():
        start = time.monotonic() if start is None else start
        window = start + plan.warmup_s, start + plan.warmup_s + plan.seconds
        before = read_cpu(start, read_server)
        meter = CpuMeter(window, read_server)
        rows = _closed_loop(send, plan, log, meter) if plan.due is None else open_loop(send, log, plan.due, start)
        first, last = meter.readings()
        return LoadRun(rows, before, first, last, read_cpu(time.monotonic(), read_server))


@contextmanager
def no_collections() -> Iterator[None]:
    """Collect garbage now and not within the block: its pauses would count as latency of the server."""
    if not gc.isenabled():  # in an outer block
        yield
        return
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _closed_loop(send: SendRequest, plan: LoadPlan, log: ResponseLog, meter: CpuMeter) -> RequestRows:
    loop = ClosedLoop(send, log, plan.in_flight, cycle=plan.cycle)
    loop.start()
    meter.readings()
    loop.stop()
    rows = loop.wait()
    if loop.ran_out:
        raise RuntimeError(f"{len(plan.requests)} requests were used up before the window ended: raise --requests")
    return rows


def run(settings: LoadSettings) -> int:
    """Measure and print the summary; 1 if the client was the bottleneck or the server has gone.

    Raises:
        RuntimeError: nothing responds, or the server has another bundle than `settings.bundle`.
        OSError: rows cannot be written; the summary is on stdout then.
    """
    if settings.parts == 1:  # else the process that starts several clients has checked
        check_source(settings.target, settings.bundle, _method(settings), settings.access)
    window = _run_clients(settings) if settings.processes > 1 else _run_client(settings)
    if settings.window:
        window.save(settings.window)
        return 0
    cores = len(os.sched_getaffinity(0))
    figures = window_figures(window, settings.slo_ms, settings.max_busy, settings.max_late_ms, cores)
    sys.stdout.write(formatting.as_json(figures) + "\n")
    sys.stdout.flush()
    if settings.rows:
        window.measured().save(settings.rows)
    if settings.hdr:
        write_log(window.measured(), settings.hdr, settings.workload)
    problems = [figures["bottleneck"], server_gone(window.rows, settings.target)]
    sys.stderr.writelines(f"swiftrec bench load: {problem}\n" for problem in problems if problem)
    return 1 if any(problems) else 0


def server_gone(rows: RequestRows, target: str) -> str:
    """A sentence if the last requests were UNAVAILABLE (a single one may be a rejection by gRPC); else empty."""
    last = rows.code[np.argsort(rows.done)][-_LAST_REQUESTS:]
    if not len(last) or (last != UNAVAILABLE).any():
        return ""
    lost = int((rows.code == UNAVAILABLE).sum())
    return f"partial: the server at {target} went away, {lost} requests failed: look at its log, and start it again"


def make_plan(settings: LoadSettings) -> LoadPlan:
    """What client number `part` of `parts` sends."""
    part, parts = settings.part, settings.parts
    if settings.recording:
        recording = Recording.load(settings.recording)
        due = recording.times / settings.speed
        requests = recording.requests(settings.bundle, settings.seed)
        return LoadPlan(requests.share(part, parts), due[part::parts], 0.0, float(due[-1]) + 1e-3)
    if settings.loop == "closed":
        number = -(-settings.requests // parts)
        requests = make(settings.workload, settings.bundle, number, settings.seed + 1_000_003 * part)
        in_flight = len(range(part, settings.in_flight, parts))  # 0 if there are more clients than requests in flight
        return LoadPlan(requests, None, settings.warmup_s, settings.seconds, in_flight, settings.cycle)
    due = arrivals(settings.rate, settings.warmup_s + settings.seconds, settings.seed, settings.pattern)
    requests = make(settings.workload, settings.bundle, max(1, len(due)), settings.seed)
    return LoadPlan(requests.share(part, parts), due[part::parts], settings.warmup_s, settings.seconds)


def _method(settings: LoadSettings) -> MethodName:
    return Recording.load(settings.recording).method if settings.recording else WORKLOADS[settings.workload].method


def _run_client(settings: LoadSettings) -> Window:
    """The load of this process."""
    plan = make_plan(settings)
    method = plan.requests.method
    log = ResponseLog(plan.requests, 1 if method == "batch" else _SAMPLE_EVERY)
    with connected(settings.target, PATHS[method], settings.access) as send, no_collections():
        start = _wait_for_start() if settings.parts > 1 else time.monotonic() + _LEAD_S
        measured = run_load(send, plan, log, cpu_reader(settings.watch), start)
    by: Literal["done", "intended"] = "done" if plan.due is None else "intended"
    in_window = log.responses(measured.first.planned, measured.last.planned, by=by)
    sample = read_responses(method, log.responses())
    sample = replace(sample, steps_ms=read_responses(method, in_window).steps_ms)  # without those of the warm-up
    tokens = float(plan.requests.tokens.mean()) if len(plan.requests) else 0.0
    return Window(measured.rows, measured.first, measured.last, sample, tokens, is_open=plan.due is not None)


def _wait_for_start() -> float:
    """In one client of several: report that everything is prepared, and read when to start (monotonic clock)."""
    sys.stdout.write(f"{_READY}\n")
    sys.stdout.flush()
    return float(sys.stdin.readline())


def _run_clients(settings: LoadSettings) -> Window:
    """Start `settings.processes` clients, let them start together, and merge what they measured.

    Raises:
        RuntimeError: a client failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{part}.npz" for part in range(settings.processes)]
        clients = [_start_client(settings, part, path) for part, path in enumerate(paths)]
        try:
            _start_together(clients)
            for client in clients:
                _, errors = client.communicate()
                if client.returncode:
                    raise RuntimeError(_without_name(errors))
        finally:
            for client in clients:
                client.kill()
        return merge_windows([Window.load(path) for path in paths])


def _start_client(settings: LoadSettings, part: int, path: Path) -> subprocess.Popen[str]:
    values = settings.model_dump(mode="json", exclude_none=True, exclude={"rows", "hdr", "processes"})
    values |= {"part": part, "parts": settings.processes, "window": str(path)}
    if part:
        values.pop("watch", None)  # the first client measures the server
    return subprocess.Popen(  # noqa: S603
        tool_command("load", **values),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _start_together(clients: list[subprocess.Popen[str]]) -> None:
    for client in clients:
        if client.stdout is None or client.stdout.readline().strip() != _READY:
            errors = _without_name(client.communicate()[1])
            raise RuntimeError(errors or "a client ended before it started: try a single one with --processes 1")
    start = time.monotonic() + _TOGETHER_LEAD_S
    for client in clients:
        if client.stdin is not None:
            client.stdin.write(f"{start}\n")
            client.stdin.flush()


def _without_name(errors: str) -> str:
    """A client's error without the program name, which this process adds itself."""
    return errors.strip().removeprefix("swiftrec bench load: ")
