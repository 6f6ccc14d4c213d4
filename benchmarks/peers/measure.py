"""One server, one round: alone against a batch, then closed loops, then an open loop at 70 % of what was found."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.client import ClosedLoop, arrivals, open_loop
from benchmarks.peers.asked import Answer, Asked
from benchmarks.peers.family import Family, PeerError
from benchmarks.peers.wire import OK, Ask
from benchmarks.summary import Rows, summarise

_AT = 0.7  # of the capacity
_ALONE = 64  # texts that are asked alone and again with others
_SLO_MS = 100.0
_LONGER = 2  # windows of lists, whose answers come in lumps
_MANY = 200_000  # requests at hand in a closed loop


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
    is as in `Asked.mix`, `late_ms` the p99 by which the open loop was late.
    """

    requests_per_s: float
    server_us: float
    client_us: float
    busy: float
    client_busy: float
    mix: float
    p50_ms: float
    p50_ms_one_in_flight: float | None
    p99_ms_at_70: float
    late_ms: float
    errors: int
    wrong_answers: int
    answers: int
    different_alone: int


@dataclass(frozen=True, slots=True)
class _Window:
    """Of a closed loop: rows, answers, seconds, CPU seconds of server and client."""

    rows: Rows
    answers: list[Answer]
    seconds: float
    server_s: float
    client_s: float


def is_answering(ask: Ask, asked: Asked) -> bool:
    """Whether the first request is answered; waits for its answer."""
    loop = ClosedLoop(asked.through(ask), asked.requests[:1], 1)
    loop.start()
    is_good = bool((loop.rows().code == OK).all())
    asked.take()
    asked.errors = asked.wrong = asked.answers = 0
    return is_good


def measure(family: Family, ask: Ask, asked: Asked, plan: Plan) -> Figures:
    """Everything of one round.

    Raises:
        PeerError: the server ended, or answers nothing.
    """
    size = asked.target.texts
    different = _alone_against_batch(ask, asked, plan)
    lists = replace(plan, seconds=_LONGER * plan.seconds) if size > 1 else plan
    full = _closed(family, ask, asked, lists, max(1, plan.in_flight // size))
    one = _closed(family, ask, asked, plan, 1) if size == 1 else None
    if not full.answers:
        raise PeerError("answered nothing within the window")
    rate = len(full.answers) / full.seconds
    late = summarise(_open(ask, asked, plan, _AT * rate / size), plan.seconds, _SLO_MS)
    family.check()
    return Figures(
        requests_per_s=rate,
        server_us=1e6 * full.server_s / len(full.answers),
        client_us=1e6 * full.client_s / len(full.answers),
        busy=full.server_s / full.seconds,
        client_busy=full.client_s / full.seconds,
        mix=asked.mix(full.answers),
        p50_ms=_p50_ms(full),
        p50_ms_one_in_flight=_p50_ms(one) if one else None,
        p99_ms_at_70=late.p99_ms,
        late_ms=late.late_ms,
        errors=asked.errors,
        wrong_answers=asked.wrong,
        answers=asked.answers,
        different_alone=different,
    )


def _p50_ms(window: _Window) -> float:
    return summarise(window.rows, window.seconds, _SLO_MS).p50_ms


def _alone_against_batch(ask: Ask, asked: Asked, plan: Plan) -> int:
    """How many texts are answered differently alone and beside others."""
    requests = asked.requests[: max(1, _ALONE // asked.target.texts)]
    alone, together = (_answers(ask, asked, requests, in_flight) for in_flight in (1, plan.in_flight))
    return sum(not asked.scores.is_same(text, ids, together[text]) for text, ids in alone.items())


def _answers(ask: Ask, asked: Asked, requests: Sequence[bytes], in_flight: int) -> dict[int, list[str]]:
    loop = ClosedLoop(asked.through(ask), requests, in_flight)
    loop.start()
    loop.rows()
    return {answer.text: answer.ids for answer in asked.take()}


def _closed(family: Family, ask: Ask, asked: Asked, plan: Plan, in_flight: int) -> _Window:
    loop = ClosedLoop(asked.through(ask), asked.requests * (_MANY // len(asked.requests)), in_flight)
    loop.start()
    time.sleep(plan.warmup_s)  # the schedule is the load
    start, server, client = time.monotonic(), family.cpu_s(), time.process_time()
    time.sleep(plan.seconds)
    server_s = sum(spent - server.get(pid, 0.0) for pid, spent in family.cpu_s().items())
    end, client_s = time.monotonic(), time.process_time() - client
    loop.stop()
    rows = loop.rows()
    family.check()
    answers = [answer for answer in asked.take() if answer.ids and start <= answer.moment < end]
    return _Window(rows.within(start, end), answers, end - start, server_s, client_s)


def _open(ask: Ask, asked: Asked, plan: Plan, rate: float) -> Rows:
    due = arrivals(rate, plan.warmup_s + plan.seconds, plan.seed)
    requests = [asked.requests[n % len(asked.requests)] for n in range(len(due))]
    start = time.monotonic()
    rows = open_loop(asked.through(ask), requests, due)
    asked.take()
    return rows.within(start + plan.warmup_s, float("inf"), by="intended")
