"""Jumps of the wall clock, and tokens that change all the time: calls are answered as before."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from swiftrec.server.app import App
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from swiftrec.server.pb.swiftrec.v1.recommender_pb2_grpc import RecommenderServiceStub
from tests.files import put
from tests.server.held import hold_steps
from tests.server.secure import ENCODE, UNAUTHENTICATED, bearer, code
from tests.server.test_endpoint import connect, running
from tests.until import LONG, until

_DAY_S = 86_400.0
_REQUEST = pb.RecommendRequest(query="film")
_ROTATIONS = 40


class WallClock:
    """The system's clock, which may be set."""

    def __init__(self) -> None:
        self._now, self.shift_s = time.time, 0.0

    def __call__(self) -> float:
        return self._now() + self.shift_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> WallClock:
    """What the process sees as the wall clock."""
    wall = WallClock()
    monkeypatch.setattr(time, "time", wall)
    return wall


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """The worker runs no step until it is open."""
    return hold_steps(monkeypatch)


def test_calls_are_answered_while_the_wall_clock_jumps(tmp_path: Path, clock: WallClock) -> None:
    """The client, in this process, sets no deadline: it would read the same clock."""
    more = threading.Semaphore(0)

    def messages() -> Iterator[pb.StreamRecommendRequest]:
        while True:
            assert more.acquire(timeout=LONG)
            yield pb.StreamRecommendRequest(request=_REQUEST)

    with running(tmp_path) as app, connect(app) as channel:
        stub, health = RecommenderServiceStub(channel), health_pb2_grpc.HealthStub(channel)
        stream = stub.StreamRecommend(messages())
        replies = iter(stream)
        for shift_s in (_DAY_S, -_DAY_S, 1e3 * _DAY_S, -1e3 * _DAY_S, 0.0):
            clock.shift_s = shift_s
            assert stub.Recommend(_REQUEST).items
            assert len(stub.BatchRecommend(pb.BatchRecommendRequest(requests=[_REQUEST] * 3)).results) == 3
            more.release()
            assert next(replies).result.response.items
            state = health.Check(health_pb2.HealthCheckRequest()).status
            assert state == health_pb2.HealthCheckResponse.SERVING
        stream.cancel()  # type: ignore[no-untyped-call]


def test_servers_own_deadline_passes_though_the_wall_clock_is_set_back(
    tmp_path: Path, clock: WallClock, gate: threading.Event
) -> None:
    with running(tmp_path, default_timeout_ms=200) as app, connect(app) as channel:
        call = RecommenderServiceStub(channel).Recommend.future(_REQUEST)
        until(lambda: app.worker.has_work)
        clock.shift_s = -_DAY_S
        assert call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        gate.set()


def _counts(app: App) -> dict[str, int]:
    counts = {one.name: app.metrics.calls.count("Recommend", one.name) for one in grpc.StatusCode}
    return {name: number for name, number in counts.items() if number}


@pytest.mark.skipif("config.getoption('front') == 'aio'", reason="grpc.aio tells the time left by the wall clock")
def test_call_that_is_cancelled_after_a_jump_of_the_clock_is_counted_as_that(
    tmp_path: Path, clock: WallClock, gate: threading.Event
) -> None:
    with running(tmp_path) as app, connect(app) as channel:
        call = RecommenderServiceStub(channel).Recommend.future(_REQUEST, timeout=LONG)
        until(lambda: app.worker.has_work)
        clock.shift_s = _DAY_S
        call.cancel()  # type: ignore[no-untyped-call]
        until(lambda: _counts(app) == {"CANCELLED": 1}, lambda: _counts(app))
        gate.set()


def test_tokens_that_change_all_the_time_are_each_valid_until_the_next(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    tokens = [f"0123456789abcdef-{n}" for n in range(_ROTATIONS)]
    put(file, tokens[0].encode())
    with running(tmp_path / "small", token_file=file) as app, connect(app) as channel:
        for old, new in itertools.pairwise(tokens):
            assert code(channel, ENCODE, *bearer(old)) is not UNAUTHENTICATED
            put(file, new.encode())
            assert code(channel, ENCODE, *bearer(old)) is UNAUTHENTICATED
            assert code(channel, ENCODE, *bearer(new)) is not UNAUTHENTICATED
            put(file, b"broken\n")  # what was read before stays in force
            assert code(channel, ENCODE, *bearer(new)) is not UNAUTHENTICATED
            put(file, new.encode())
