"""One server in one round: one request in flight, alone against batched, saturated, then an open loop at 70 %."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from swiftrec.benchmarks.client import SendRequest, arrivals, send_all
from swiftrec.benchmarks.load import LoadPlan, no_collections, run_load
from swiftrec.benchmarks.peers.process_tree import PeerError, ProcessTree
from swiftrec.benchmarks.peers.session import PeerSession, TextRanking
from swiftrec.benchmarks.statistics import SHARE_70, RequestRows, p99_of, slope_per_s, summarise

_ALONE_TEXTS = 64  # texts that are sent alone and again with others
_SLO_MS = 100.0
_BATCH_WINDOWS = 2  # windows of batches, whose responses arrive in bursts


@dataclass(frozen=True, slots=True)
class LoadShape:
    """Seconds of warm-up and of each window, texts in flight, seed of the arrivals."""

    seconds: float = 4.0
    warmup_s: float = 1.5
    in_flight: int = 64
    seed: int = 7


@dataclass(frozen=True, slots=True)
class RoundFigures:
    """Figures of one server in one round.

    `requests_per_s` counts texts with a ranking; CPU times are microseconds a text. `busy` is the share of its core
    that the server used while saturated: below 1 it waited, or other processes used the core. `mix` is as in
    `PeerSession.mix`. Of the open loop: `late_ms` is the p99 of the lateness, `latency_ms` has the latency of each
    request, and `p99_ms_at_70` is their p99; None if they are too few for one.
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
class Saturated:
    """A closed loop: texts per second and p50 within its window.

    The other figures are over the whole run, from idle to idle, so that no batch counts without its work: rankings,
    seconds, and CPU seconds of server and client.
    """

    rate: float
    p50_ms: float
    rankings: list[TextRanking]
    seconds: float
    server_s: float
    client_s: float


def is_answering(send: SendRequest, session: PeerSession) -> bool:
    """Whether the server answers the first request with items; waits for the response."""
    log = session.log(1)
    send_all(send, log)
    rankings, _ = session.check(log)
    session.reset()
    return all(ranking.ids for ranking in rankings)


@no_collections()
def measure(tree: ProcessTree, send: SendRequest, session: PeerSession, shape: LoadShape) -> RoundFigures:
    """All figures of one round.

    Raises:
        PeerError: the server ended, or does not respond.
    """
    size = session.target.texts
    alone = closed_loop(tree, send, session, shape, 1) if size == 1 else None  # first: some servers adapt their waiting
    different = _different_alone(send, session, shape)
    longer = replace(shape, seconds=_BATCH_WINDOWS * shape.seconds) if size > 1 else shape
    full = closed_loop(tree, send, session, longer, max(1, shape.in_flight // size))
    if not full.rate > 0:
        raise PeerError("answered too little within the window: give more --seconds")
    rows = _open_loop(tree, send, session, shape, SHARE_70 * full.rate / size)
    latency_ms = rows.latency_ms()
    tree.check()
    return RoundFigures(
        requests_per_s=full.rate,
        server_us=1e6 * full.server_s / len(full.rankings),
        client_us=1e6 * full.client_s / len(full.rankings),
        busy=full.server_s / full.seconds,
        client_busy=full.client_s / full.seconds,
        mix=session.mix(full.rankings),
        p50_ms=full.p50_ms,
        p50_ms_one_in_flight=alone.p50_ms if alone else None,
        p99_ms_at_70=p99_or_none(latency_ms),
        late_ms=summarise(rows, shape.seconds, _SLO_MS).late_ms,
        errors=session.errors,
        wrong_answers=session.wrong,
        answers=session.rankings,
        different_alone=different,
        trouble=session.trouble,
        latency_ms=latency_ms,
    )


def p99_or_none(latency_ms: NDArray[np.float64]) -> float | None:
    """The p99, or None if there are too few latencies for one."""
    p99_ms = p99_of(latency_ms)
    return None if np.isnan(p99_ms) else p99_ms


def closed_loop(
    tree: ProcessTree, send: SendRequest, session: PeerSession, shape: LoadShape, in_flight: int
) -> Saturated:
    """Keep requests in flight through warm-up and window.

    Raises:
        PeerError: the server ended.
    """
    log = session.log()
    plan = LoadPlan(session.requests, None, shape.warmup_s, shape.seconds, in_flight, cycle=True)
    run = run_load(send, plan, log, tree.cpu_s)
    tree.check()
    rankings, rows = session.check(log)
    start, end = run.first.planned, run.last.planned
    return Saturated(
        rate=slope_per_s(rows, start, end),
        p50_ms=summarise(rows.within(start, end), end - start, _SLO_MS).p50_ms,
        rankings=[ranking for ranking in rankings if ranking.ids],
        seconds=run.after.moment - run.before.moment,
        server_s=(run.after.server or 0.0) - (run.before.server or 0.0),
        client_s=run.after.client - run.before.client,
    )


def _open_loop(
    tree: ProcessTree, send: SendRequest, session: PeerSession, shape: LoadShape, rate: float
) -> RequestRows:
    """The rows intended in the window of an open loop."""
    log = session.log()
    due = arrivals(rate, shape.warmup_s + shape.seconds, shape.seed)
    plan = LoadPlan(session.requests, due, shape.warmup_s, shape.seconds)
    run = run_load(send, plan, log, tree.cpu_s)
    _, rows = session.check(log)
    return rows.within(run.first.planned, float("inf"), by="intended")


def _different_alone(send: SendRequest, session: PeerSession, shape: LoadShape) -> int:
    """Number of texts whose ranking differs between sending them alone and with others."""
    number = max(1, _ALONE_TEXTS // session.target.texts)
    alone, together = (_rankings(send, session, number, in_flight) for in_flight in (1, shape.in_flight))
    return sum(
        text not in together or not session.truth.is_same(text, ids, together[text]) for text, ids in alone.items()
    )


def _rankings(send: SendRequest, session: PeerSession, number: int, in_flight: int) -> dict[int, list[str]]:
    log = session.log(number)
    send_all(send, log, in_flight)
    rankings: Sequence[TextRanking] = session.check(log)[0]
    return {ranking.text: ranking.ids for ranking in rankings}
