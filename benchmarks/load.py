"""`python -m benchmarks load`: requests with many in flight, from a process of its own.

Closed loop: each answer is followed by the next request, N in flight. Open loop: Poisson arrivals at a rate, sent
whether or not answers come, latency counted from the intended time.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from benchmarks.client import ClosedLoop, Send, arrivals, connected, open_loop
from benchmarks.machine import cpu_seconds, pinned
from benchmarks.process import LOAD_CORE, Served
from benchmarks.summary import Rows, summarise
from benchmarks.workload import PATHS, Method, requests


class LoadSettings(BaseSettings):
    """Send requests with many in flight; the last line is the summary as JSON."""

    model_config = SettingsConfigDict(cli_prog_name="python -m benchmarks load", cli_kebab_case=True)

    target: str = Field(description="HOST:PORT of the server")
    bundle: Path = Field(Path("artifacts/movielens-quick"), description="bundle whose item texts are used")
    method: Method = Field("encode", description="Encode of one text, or Recommend")
    loop: Literal["closed", "open"] = Field("closed", description="N in flight, or Poisson arrivals at a rate")
    in_flight: int = Field(64, ge=1, le=4_096, description="requests in flight (closed loop)")
    rate: float = Field(100.0, gt=0, le=100_000, description="requests per second (open loop)")
    warmup_s: float = Field(1.0, ge=0, description="seconds before the window that is measured")
    seconds: float = Field(5.0, gt=0, description="length of that window")
    requests: int = Field(50_000, ge=1, description="texts at hand in a closed loop; none is sent twice")
    slo_ms: float = Field(100.0, gt=0, description="an answer within it counts as goodput")
    seed: int = Field(7, description="of texts and arrivals")
    watch: int | None = Field(None, description="process id whose CPU time in the window is measured")
    rows: Path | None = Field(None, description="write the raw rows of the window to this .npz file")


@dataclass(frozen=True, slots=True)
class Window:
    """What was measured: rows, length in seconds, CPU seconds of server and client in it.

    `asked_bytes` is the mean size of a request of the whole workload.
    """

    rows: Rows
    seconds: float
    server_cpu: float | None
    client_cpu: float
    asked_bytes: float


def run(settings: LoadSettings) -> int:
    """Measure and write the summary."""
    with connected(settings.target, PATHS[settings.method]) as send:
        window = (_closed if settings.loop == "closed" else _open)(send, settings)
    if settings.rows:
        window.rows.save(settings.rows)
    sys.stdout.write(json.dumps(figures(window, settings.slo_ms)) + "\n")
    return 0


def figures(window: Window, slo_ms: float) -> dict[str, float | None]:
    """The summary, and the CPU that server and client took for each answer in microseconds.

    `mix` is the mean size of the answered requests over that of the workload: below 1 the window saw short texts
    more often than they were sent, because the server prefers them and the long ones still wait.
    """
    summary = summarise(window.rows, window.seconds, slo_ms)
    answers = max(1, summary.requests)
    server = None if window.server_cpu is None else 1e6 * window.server_cpu / answers
    costs = {"server_us": server, "client_us": 1e6 * window.client_cpu / answers}
    return {**summary.as_dict(), **costs, "mix": summary.mean_bytes / window.asked_bytes}


def measure(served: Served, **flags: Any) -> dict[str, float]:  # noqa: ANN401 (flags of several types)
    """Run the load generator on its own core against a server and give its figures.

    Args:
        served: the server; its CPU time is measured.
        flags: fields of `LoadSettings`.

    Raises:
        RuntimeError: the generator failed, or requests did.
    """
    values = {"target": served.address, "watch": served.pid, **flags}
    command = [sys.executable, "-m", "benchmarks", "load"]
    for name, value in values.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    with pinned(LOAD_CORE):
        ended = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if ended.returncode:
        raise RuntimeError(f"the load generator failed: {ended.stderr.strip()}")
    found: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    if found["failed"]:
        raise RuntimeError(f"{found['failed']:.0f} of {found['requests']:.0f} requests failed")
    return found


def _closed(send: Send, settings: LoadSettings) -> Window:
    asked = requests(settings.bundle, settings.method, settings.requests, settings.seed)
    loop = ClosedLoop(send, asked, settings.in_flight)
    loop.start()
    time.sleep(settings.warmup_s)
    start, server, client = time.monotonic(), _cpu(settings.watch), time.process_time()
    time.sleep(settings.seconds)
    end, server_end, client_end = time.monotonic(), _cpu(settings.watch), time.process_time()
    loop.stop()
    rows = loop.rows().within(start, end)
    if loop.ran_out:
        raise RuntimeError(f"{settings.requests} texts were used up before the window ended: give more --requests")
    return Window(rows, end - start, _difference(server, server_end), client_end - client, _mean_size(asked))


def _open(send: Send, settings: LoadSettings) -> Window:
    due = arrivals(settings.rate, settings.warmup_s + settings.seconds, settings.seed)
    asked = requests(settings.bundle, settings.method, len(due), settings.seed)
    first = int((due < settings.warmup_s).sum())
    open_loop(send, asked[:first], due[:first])
    server, client = _cpu(settings.watch), time.process_time()
    rows = open_loop(send, asked[first:], due[first:] - settings.warmup_s)
    spent = _difference(server, _cpu(settings.watch))
    return Window(rows, settings.seconds, spent, time.process_time() - client, _mean_size(asked))


def _mean_size(asked: Sequence[bytes]) -> float:
    return sum(map(len, asked)) / max(1, len(asked))


def _cpu(pid: int | None) -> float | None:
    return None if pid is None else cpu_seconds(pid)


def _difference(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else end - start
