"""`swiftrec bench load`: requests with many in flight, from processes of their own.

Closed loop: each answer is followed by the next request, N in flight. Open loop: Poisson or constant arrivals at a
rate, sent whether or not answers come, latency counted from the intended time. A run whose client was the bottleneck
fails.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from swiftrec.benchmarks import first, fleet, replies, report
from swiftrec.benchmarks.access import AccessSettings
from swiftrec.benchmarks.client import ClosedLoop, Log, Pattern, Send, arrivals, connected, open_loop
from swiftrec.benchmarks.hdr import write_log
from swiftrec.benchmarks.machine import Meter
from swiftrec.benchmarks.recording import Recording
from swiftrec.benchmarks.summary import UNAVAILABLE, Rows
from swiftrec.benchmarks.window import Window, figures
from swiftrec.benchmarks.workload import KINDS, PATHS, Asked, Method, Name, make

_REPLY_EVERY = 8  # of one-entry requests; of lists every reply is looked at
_LEAD_S = 0.05
_LAST = 3  # requests that tell whether the server is still there


class LoadSettings(AccessSettings):
    """Send requests with many in flight; the last line is the summary as JSON."""

    model_config = SettingsConfigDict(cli_prog_name="swiftrec bench load", cli_kebab_case=True, cli_implicit_flags=True)

    target: str = Field(description="HOST:PORT of the server")
    bundle: Path = Field(Path("artifacts/movielens-quick"), description="bundle whose words and item ids are sent")
    workload: Name = Field("words", description="what is sent: see benchmarks/workload.py")
    recording: Path | None = Field(None, description="replay this recording instead (open loop, its own arrivals)")
    speed: float = Field(1.0, gt=0, le=1_000, description="of a replay: 2 sends twice as fast")
    loop: Literal["closed", "open"] = Field("closed", description="N in flight, or arrivals at a rate")
    in_flight: int = Field(64, ge=1, le=4_096, description="requests in flight (closed loop)")
    rate: float = Field(100.0, gt=0, le=100_000, description="requests per second (open loop)")
    pattern: Pattern = Field("poisson", description="arrivals of the open loop")
    warmup_s: float = Field(1.0, ge=0, description="seconds before the window that is measured")
    seconds: float = Field(5.0, gt=0, description="length of that window")
    requests: int = Field(50_000, ge=1, description="requests at hand in a closed loop; none is sent twice")
    cycle: bool = Field(False, description="send them again and again (closed loop)")
    slo_ms: float = Field(100.0, gt=0, description="an answer within it counts as goodput")
    seed: int = Field(7, description="of requests and arrivals")
    processes: int = Field(1, ge=1, le=64, description="clients that share in flight, rate or recording")
    part: int = Field(0, ge=0, description="number of this client (set by the one that starts several)")
    parts: int = Field(1, ge=1, description="how many clients there are (likewise)")
    window: Path | None = Field(None, description="write all that this client measured to this .npz file (likewise)")
    watch: int | None = Field(None, description="process id whose CPU time in the window is measured")
    rows: Path | None = Field(None, description="write the raw rows of the window to this .npz file")
    hdr: Path | None = Field(None, description="write latencies (microseconds) as a HdrHistogram log")
    max_busy: float = Field(0.9, gt=0, description="share of its cores beyond which the client is the bottleneck")
    max_late_ms: float = Field(5.0, gt=0, description="median lateness of sends beyond which it is, too (open loop)")


@dataclass(frozen=True, slots=True)
class Plan:
    """What one client sends: requests, when each is due (None: N in flight), warm-up and window in seconds."""

    asked: Asked
    due: NDArray[np.float64] | None
    warmup_s: float
    seconds: float


def run(settings: LoadSettings) -> int:
    """Measure and write the summary; 1 if the client was the bottleneck or the server has gone.

    Raises:
        RuntimeError: nothing answers, or another bundle than the one whose words are sent.
        OSError: rows cannot be written; the summary stands on stdout.
    """
    if settings.parts == 1:  # else the one that starts several has asked
        first.check_source(settings.target, settings.bundle, _method(settings), settings.access)
    window = fleet.run(settings) if settings.processes > 1 else _alone(settings)
    if settings.window:
        window.save(settings.window)
        return 0
    cores = len(os.sched_getaffinity(0))
    found = figures(window, settings.slo_ms, settings.max_busy, settings.max_late_ms, cores)
    sys.stdout.write(report.as_json(found) + "\n")
    sys.stdout.flush()
    if settings.rows:
        window.measured().save(settings.rows)
    if settings.hdr:
        write_log(window.measured(), settings.hdr, settings.workload)
    problems = [one for one in (found["bottleneck"], gone(window.rows, settings.target)) if one]
    sys.stderr.writelines(f"benchmarks load: {one}\n" for one in problems)
    return 1 if problems else 0


def gone(rows: Rows, target: str) -> str:
    """That nobody took the last requests; empty if somebody did (one alone may be a refusal of gRPC's)."""
    last = rows.code[np.argsort(rows.done)][-_LAST:]
    if not len(last) or (last != UNAVAILABLE).any():
        return ""
    lost = int((rows.code == UNAVAILABLE).sum())
    return f"partial: the server at {target} went away, {lost} requests met nobody: look at its log, and start it again"


def plan(settings: LoadSettings) -> Plan:
    """What client number `part` of `parts` sends."""
    part, parts = settings.part, settings.parts
    if settings.recording:
        recording = Recording.load(settings.recording)
        due = recording.times / settings.speed
        whole = recording.asked(settings.bundle, settings.seed)
        return Plan(whole.share(part, parts), due[part::parts], 0.0, float(due[-1]) + 1e-3)
    if settings.loop == "closed":
        number = -(-settings.requests // parts)
        asked = make(settings.workload, settings.bundle, number, settings.seed + 1_000_003 * part)
        return Plan(asked, None, settings.warmup_s, settings.seconds)
    span = settings.warmup_s + settings.seconds
    due = arrivals(settings.rate, span, settings.seed, settings.pattern)
    asked = make(settings.workload, settings.bundle, max(1, len(due)), settings.seed)
    return Plan(asked.share(part, parts), due[part::parts], settings.warmup_s, settings.seconds)


def in_flight(settings: LoadSettings) -> int:
    """How many requests this client keeps in flight: its share, 0 if there are more clients than requests."""
    return len(range(settings.part, settings.in_flight, settings.parts))


def _method(settings: LoadSettings) -> Method:
    return Recording.load(settings.recording).method if settings.recording else KINDS[settings.workload].method


def _alone(settings: LoadSettings) -> Window:
    found = plan(settings)
    with connected(settings.target, PATHS[found.asked.method], settings.access) as send:
        gc.freeze()
        gc.disable()  # a collection would be latency
        start = fleet.start_time() if settings.parts > 1 else time.monotonic() + _LEAD_S
        ends = start + found.warmup_s, start + found.warmup_s + found.seconds
        meter = Meter(ends, settings.watch)
        log = Log(found.asked, 1 if found.asked.method == "batch" else _REPLY_EVERY)
        rows = _closed(send, log, settings, meter) if found.due is None else open_loop(send, log, found.due, start)
    before, after = meter.readings()
    sample = replies.read(found.asked.method, log.replies())
    inside = log.replies(*ends, by="done" if found.due is None else "intended")
    sample = replace(sample, steps_ms=replies.read(found.asked.method, inside).steps_ms)  # without the warm-up's
    tokens = float(found.asked.tokens.mean()) if len(found.asked) else 0.0
    return Window(rows, before, after, sample, tokens, is_open=found.due is not None)


def _closed(send: Send, log: Log, settings: LoadSettings, meter: Meter) -> Rows:
    loop = ClosedLoop(send, log, in_flight(settings), cycle=settings.cycle)
    loop.start()
    meter.readings()
    loop.stop()
    rows = loop.rows()
    if loop.ran_out:
        raise RuntimeError(f"{settings.requests} requests were used up before the window ended: give more --requests")
    return rows
