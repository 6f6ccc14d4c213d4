"""`swiftrec bench overload`: what a server keeps when far more is asked than it can do.

Without --variant the server runs with models of a fixed service time, so its capacity is known. With it the bundle's
own models run on one core, and the capacity is what a closed loop got right before. An open loop asks for a multiple.
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

from swiftrec.benchmarks import measure, report
from swiftrec.benchmarks.client import Log, arrivals
from swiftrec.benchmarks.extra import gathered
from swiftrec.benchmarks.flood import flood
from swiftrec.benchmarks.machine import pinned
from swiftrec.benchmarks.process import Served, load_cores, more_flags, serving
from swiftrec.benchmarks.scrape import Scrape, scrape
from swiftrec.benchmarks.summary import OK, RESOURCE_EXHAUSTED, Rows
from swiftrec.benchmarks.workload import KINDS, Name, make

SERVICE_MS, _BATCH, BUDGET_MS = 50.0, 4, 400.0
CAPACITY = 1e3 * _BATCH / SERVICE_MS  # requests a second of the stub
_STUB = f"-m benchmarks stub --service-ms {SERVICE_MS} --max-batch-jobs {_BATCH} --sessions 1 --cache-mb 0".split()
_STUB += ["--port", "0", "--metrics-port", "0", "--log-level", "error"]
OPEN_DOOR = (
    *("--queue-budget-ms", "3600000", "--default-timeout-ms", "3600000"),
    *("--max-calls", "2000", "--max-waiting-jobs", "1000000"),
)
_CONTROL = "no admission"
_GOODPUT, _REFUSAL_MS = 0.95, 50.0
_IN_FLIGHT = 128  # recommendations, for the capacity
_MOST_PER_S = 8_000  # recommendations that a server on one core can give
_COUNTED_S, _LOOK_S = 5.0, 0.1  # in which the server counts calls whose answers have come
_LEAD_S = 0.1
_COUNT = "swiftrec_call_seconds_count"
_CODES = {code.name: code.value[0] for code in grpc.StatusCode}


class OverloadSettings(BaseSettings):
    """Ask for .5 to 10 times the capacity; goals: goodput .95, refusals' p99 50 ms, counts equal, no other status."""

    model_config = SettingsConfigDict(cli_prog_name="swiftrec bench overload", cli_kebab_case=True)

    bundle: Path = Field(Path("artifacts/movielens-quick"), description="bundle whose words and item ids are sent")
    times: list[float] = Field([0.5, 1.0, 1.5, 2.0, 5.0, 10.0], description="load as a multiple of the capacity")
    seconds: float = Field(3.0, gt=0, description="length of each measurement")
    warmup_s: float = Field(1.0, ge=0, description="load before each: longer than an answer takes under it")
    variant: list[str] = Field([], description="serve these encoders; none: models of a fixed service time")
    workload: list[Name] = Field(["query", "list"], description="with --variant: what is sent")


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked: a server, requests of a workload, and how many recommendations a second it can give.

    `most_ms`: what an answer may take (p99).
    """

    server: Served
    bundle: Path
    workload: Name = "words"
    capacity: float = CAPACITY
    most_ms: float = BUDGET_MS + 2 * SERVICE_MS


@dataclass(frozen=True, slots=True)
class Step:
    """One load: the multiple of the capacity that was asked for, and the one that was reached.

    Goodput as a share of the capacity, p99 of answers and of refusals in ms, other status codes seen; `counts` are the
    client's and the server's of each status code, where they differ.
    """

    times: float
    goodput: float
    accepted_ms: float
    refused_ms: float
    refused: int
    others: list[int]
    most_ms: float = inf
    sent: float = 0.0
    counts: dict[str, tuple[int, int]] = field(default_factory=dict)

    def faults(self) -> list[str]:
        """What the server did not keep."""
        found = []
        if self.times > 1 and self.goodput < _GOODPUT:
            found.append(f"goodput {self.goodput:.3f} of the capacity, at least {_GOODPUT}")
        if self.accepted_ms > self.most_ms:
            found.append(f"p99 of accepted {self.accepted_ms:.0f} ms, at most {self.most_ms:.0f}")
        if self.refused_ms > _REFUSAL_MS:
            found.append(f"p99 of refusals {self.refused_ms:.0f} ms, at most {_REFUSAL_MS:.0f}")
        if self.others:
            found.append(f"status codes {self.others}")
        found += [f"{name}: the client has {ours}, the server {theirs}" for name, (ours, theirs) in self.counts.items()]
        return found


def run(settings: OverloadSettings) -> int:
    """Write the table; exit code 1 if something was not kept, or if the control without admission kept everything."""
    found, reason = gathered(_served_steps(settings) if settings.variant else _steps(settings))
    rows = [_row(what, one) for what, one in found]
    head = ["load", "sent", "goodput", "p99 accepted ms", "p99 refused ms", "refused", "not kept"]
    text = report.table(head, rows)
    control = [fault for what, one in found if what == _CONTROL for fault in one.faults()]
    is_kept = not any(one.faults() for what, one in found if what != _CONTROL)
    is_kept &= bool(control) or bool(settings.variant)
    steps = [one for what, one in found if what != _CONTROL]
    figures = {"steps": [one.goodput for one in steps], "counts": [one.counts for one in steps]}
    code = report.ended("overload", text, figures | {"is_kept": is_kept, "control": control}, reason)
    return code or (0 if is_kept else 1)


def _steps(settings: OverloadSettings) -> Iterator[tuple[str, Step]]:
    """What is said of each load, and what came of it; the last one is the control."""
    with stub_server(settings.bundle) as server:
        for times in settings.times:
            yield "", step(Target(server, settings.bundle), times, settings.seconds, settings.warmup_s)
        yield "after that", step(Target(server, settings.bundle), 0.5, settings.seconds, settings.warmup_s)
    with stub_server(settings.bundle, *OPEN_DOOR) as server:
        yield _CONTROL, step(Target(server, settings.bundle), 3.0, settings.seconds, settings.warmup_s)


def _served_steps(settings: OverloadSettings) -> Iterator[tuple[str, Step]]:
    """The same of each encoder and workload, with the capacity measured before each load."""
    for variant in settings.variant:
        flags = ["--bundle", str(settings.bundle), "--port", "0", "--metrics-port", "0", "--log-level", "error"]
        for name in settings.workload:
            more = more_flags(variant, "", has_cache=KINDS[name].repeats)
            with serving(["-m", "swiftrec.server", *flags, *more]) as server, pinned(load_cores()):
                for times in settings.times:
                    capacity = _capacity(settings, server, name)
                    target = Target(server, settings.bundle, name, capacity, inf)
                    yield (
                        f"{variant} {name} of {capacity:.0f}/s",
                        step(target, times, settings.seconds, settings.warmup_s),
                    )


def _capacity(settings: OverloadSettings, server: Served, name: Name) -> float:
    """Recommendations a second of a closed loop."""
    found = measure.load(
        server,
        may_refuse=True,
        may_limit=True,
        workload=name,
        bundle=settings.bundle,
        in_flight=_IN_FLIGHT // KINDS[name].entries,
        seconds=settings.seconds,
        requests=int(_MOST_PER_S * (1 + settings.seconds)) // KINDS[name].entries,
    )
    if not found["throughput"]:
        raise RuntimeError(f"no answer came within {settings.seconds:g} s of {name}: give more --seconds")
    return float(found["throughput"])


@contextmanager
def stub_server(bundle: Path, *flags: str) -> Iterator[Served]:
    """The server with a queue budget of 400 ms, or with these flags instead."""
    flags = flags or ("--queue-budget-ms", f"{BUDGET_MS:.0f}")
    with serving([*_STUB, "--bundle", str(bundle), *flags], None) as running:
        yield running


def step(target: Target, times: float, seconds: float = 3.0, warmup_s: float = 1.0) -> Step:
    """One load at a multiple of the capacity."""
    rate = times * target.capacity / KINDS[target.workload].entries
    due = arrivals(rate, warmup_s + seconds, 7)
    asked = make(target.workload, target.bundle, max(1, len(due)), 7)
    before = _scraped(target.server)
    start = time.monotonic() + _LEAD_S
    rows = flood(target.server.address, Log(asked), due, start)
    target.server.check()
    counts = _different(rows, before, target.server)
    return judge(rows, target, times, start + warmup_s, seconds, counts)


def judge(
    rows: Rows, target: Target, times: float, start: float, seconds: float, counts: dict[str, tuple[int, int]]
) -> Step:
    """The figures of the window that begins at `start`: goodput of what came in it, latencies of what was due in it."""
    end = start + seconds
    came, due, sent = (
        rows.within(start, end),
        rows.within(start, end, by="intended"),
        rows.within(start, end, by="sent"),
    )
    return Step(
        times=times,
        goodput=float(came.entries[came.code == OK].sum() / seconds / target.capacity),
        accepted_ms=_p99_ms(due, OK),
        refused_ms=_p99_ms(due, RESOURCE_EXHAUSTED),
        refused=int((due.code == RESOURCE_EXHAUSTED).sum()),
        others=sorted(set(due.code.tolist()) - {OK, RESOURCE_EXHAUSTED}),
        most_ms=target.most_ms,
        sent=float(len(sent) * KINDS[target.workload].entries / seconds / target.capacity),
        counts=counts,
    )


def _scraped(server: Served) -> Scrape:
    if server.metrics is None:
        raise RuntimeError(f"the server at {server.address} has no metrics: its counts cannot be compared")
    return scrape(server.metrics)


def _different(rows: Rows, before: Scrape, server: Served) -> dict[str, tuple[int, int]]:
    """Status codes that the client has another number of calls of than the server, with both numbers."""
    ours = {name: int((rows.code == code).sum()) for name, code in _CODES.items()}
    end = time.monotonic() + _COUNTED_S
    while True:
        after = _scraped(server)
        theirs = {name: int(after.of(_COUNT, name) - before.of(_COUNT, name)) for name in ours}
        if ours == theirs or time.monotonic() > end:
            return {name: (ours[name], theirs[name]) for name in ours if ours[name] != theirs[name]}
        time.sleep(_LOOK_S)  # a call is counted after its answer was sent


def _p99_ms(rows: Rows, code: int) -> float:
    seconds = (rows.done - rows.intended)[rows.code == code]
    return 1e3 * float(np.percentile(seconds, 99)) if len(seconds) else 0.0


def _row(name: str, one: Step) -> list[str]:
    figures = [f"{one.goodput:.3f}", f"{one.accepted_ms:.0f}", f"{one.refused_ms:.1f}", str(one.refused)]
    return [f"{one.times:g}x {name}".strip(), f"{one.sent:.1f}x", *figures, "; ".join(one.faults()) or "-"]
