"""One server, one round: one in flight, alone against a batch, saturated, then an open loop at 70 % of that."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from swiftrec.benchmarks import workload
from swiftrec.benchmarks.client import ClosedLoop, Log, Send, arrivals, open_loop
from swiftrec.benchmarks.peers.asked import Answer, Asked
from swiftrec.benchmarks.peers.family import Family, PeerError
from swiftrec.benchmarks.summary import AT_70, Rows, p99_of, summarise

_ALONE = 64  # texts that are asked alone and again with others
_SLO_MS = 100.0
_LONGER = 2  # windows of lists, whose answers come in lumps


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how much: seconds of each window, texts in flight, seed of the arrivals."""

    seconds: float = 4.0
    warmup_s: float = 1.5
    in_flight: int = 64
    seed: int = 7


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one server in one round.

    `requests_per_s` counts texts with an answer; CPU times are microseconds a text. `busy` is the share of its core
    that the server took while saturated: below 1 it was waiting, or other work on the machine was in its way. `mix`
    is as in `Asked.mix`, `late_ms` the p99 by which the open loop was late. `latency_ms` are those of the open loop, an
    answer each (of a list: one), and `p99_ms_at_70` is theirs; None where they are too few for one.
    """

    requests_per_s: float
    server_us: float
    client_us: float
    busy: float
    client_busy: float
    mix: float
    p50_ms: float
    p50_ms_one_in_flight: float | None
    p99_ms_at_70: float | None
    late_ms: float
    errors: int
    wrong_answers: int
    answers: int
    different_alone: int
    trouble: str
    latency_ms: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Closed:
    """Of a closed loop: texts answered per second, and p50, within its window.

    Over all of it, from idle to idle, so that no batch is counted without its work: the answers, the seconds, and the
    CPU seconds of server and client.
    """

    rate: float
    p50_ms: float
    answers: list[Answer]
    seconds: float
    server_s: float
    client_s: float


def _log(requests: Sequence[bytes]) -> Log:
    """Of requests whose answers `Asked` looks at."""
    ones = np.ones(len(requests), np.int32)
    return Log(workload.Asked("encode", list(requests), ones, ones))


def is_answering(ask: Send, asked: Asked) -> bool:
    """Whether the first request is answered with items; waits for its answer."""
    loop = ClosedLoop(asked.through(ask), _log(asked.requests[:1]), 1)
    loop.start()
    loop.rows()
    is_good = all(answer.ids for answer in asked.take())
    asked.errors = asked.wrong = asked.answers = 0
    asked.trouble = ""
    return is_good


@contextmanager
def no_collections() -> Iterator[None]:
    """No garbage collection of the client's, which is latency that it would put down to the server."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@no_collections()
def measure(family: Family, ask: Send, asked: Asked, plan: Plan) -> Figures:
    """Everything of one round.

    Raises:
        PeerError: the server ended, or answers nothing.
    """
    size = asked.target.texts
    one = closed_loop(family, ask, asked, plan, 1) if size == 1 else None  # before a server has learnt to wait for more
    different = _alone_against_batch(ask, asked, plan)
    lists = replace(plan, seconds=_LONGER * plan.seconds) if size > 1 else plan
    full = closed_loop(family, ask, asked, lists, max(1, plan.in_flight // size))
    if not full.rate > 0:
        raise PeerError("answered too little within the window: give more --seconds")
    rows = _open(ask, asked, plan, AT_70 * full.rate / size)
    latency_ms = rows.latency_ms()
    family.check()
    return Figures(
        requests_per_s=full.rate,
        server_us=1e6 * full.server_s / len(full.answers),
        client_us=1e6 * full.client_s / len(full.answers),
        busy=full.server_s / full.seconds,
        client_busy=full.client_s / full.seconds,
        mix=asked.mix(full.answers),
        p50_ms=full.p50_ms,
        p50_ms_one_in_flight=one.p50_ms if one else None,
        p99_ms_at_70=p99_or_none(latency_ms),
        late_ms=summarise(rows, plan.seconds, _SLO_MS).late_ms,
        errors=asked.errors,
        wrong_answers=asked.wrong,
        answers=asked.answers,
        different_alone=different,
        trouble=asked.trouble,
        latency_ms=latency_ms,
    )


def p99_or_none(latency_ms: NDArray[np.float64]) -> float | None:
    """The p99, where there are answers enough for one."""
    p99_ms = p99_of(latency_ms)
    return None if np.isnan(p99_ms) else p99_ms


def closed_loop(family: Family, ask: Send, asked: Asked, plan: Plan, in_flight: int) -> Closed:
    """Keep requests in flight through warm-up and window.

    Raises:
        PeerError: the server ended.
    """
    loop = ClosedLoop(asked.through(ask), _log(asked.requests), in_flight, cycle=True)
    started, server, client = time.monotonic(), family.cpu_s(), time.process_time()
    loop.start()
    time.sleep(plan.warmup_s)  # the schedule is the load
    start = time.monotonic()
    time.sleep(plan.seconds)
    end = time.monotonic()
    loop.stop()
    rows = loop.rows()
    family.check()
    server_s = sum(spent - server.get(pid, 0.0) for pid, spent in family.cpu_s().items())
    client_s, seconds = time.process_time() - client, time.monotonic() - started
    answers = [answer for answer in asked.take() if answer.ids]
    rate = rate_of([answer.moment for answer in answers if start <= answer.moment < end], end - start)
    p50_ms = summarise(rows.within(start, end), end - start, _SLO_MS).p50_ms
    return Closed(rate, p50_ms, answers, seconds, server_s, client_s)


def rate_of(moments: Sequence[float], seconds: float) -> float:
    """Answers per second: the slope of their number, since batches answer in lumps, which the ends of a window cut.

    Answers that span less than half of the window are too few lumps for a slope: their number over its length.
    """
    times = np.sort(np.asarray(moments, dtype=np.float64))
    if len(times) == 0 or times[-1] - times[0] < seconds / 2:
        return len(times) / seconds
    return float(np.polyfit(times - times[0], np.arange(len(times)), 1)[0])


def _alone_against_batch(ask: Send, asked: Asked, plan: Plan) -> int:
    """How many texts are answered differently alone and beside others."""
    requests = asked.requests[: max(1, _ALONE // asked.target.texts)]
    alone, together = (_answers(ask, asked, requests, in_flight) for in_flight in (1, plan.in_flight))
    return sum(
        text not in together or not asked.scores.is_same(text, ids, together[text]) for text, ids in alone.items()
    )


def _answers(ask: Send, asked: Asked, requests: Sequence[bytes], in_flight: int) -> dict[int, list[str]]:
    loop = ClosedLoop(asked.through(ask), _log(requests), in_flight)
    loop.start()
    loop.rows()
    return {answer.text: answer.ids for answer in asked.take()}


def _open(ask: Send, asked: Asked, plan: Plan, rate: float) -> Rows:
    due = arrivals(rate, plan.warmup_s + plan.seconds, plan.seed)
    requests = [asked.requests[n % len(asked.requests)] for n in range(len(due))]
    start = time.monotonic()
    rows = open_loop(asked.through(ask), _log(requests), due, start)
    asked.take()
    return rows.within(start + plan.warmup_s, float("inf"), by="intended")
