"""A model that hangs: nothing waits for it without end, and the server asks to be restarted."""

from __future__ import annotations

import threading
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from numpy.typing import NDArray

from server.app import App
from server.config import ServerSettings
from server.errors import SwiftrecError
from server.models.bundle import RANKER
from server.models.session import Session
from server.pb.swiftrec.v1 import recommender_pb2 as pb
from server.pb.swiftrec.v1.recommender_pb2_grpc import RecommenderServiceStub
from server.worker.loop import WorkerThread
from tests import small
from tests.until import LONG, until


class HangingEncoder(small.TinyEncoder):
    """Hangs while its gate is closed."""

    def __init__(self, gate: threading.Event) -> None:
        self._gate = gate

    def run(self, feeds: dict[str, NDArray[np.generic]]) -> NDArray[np.float32]:
        """Both halves, once the gate is open."""
        assert self._gate.wait(LONG)
        return super().run(feeds)


def test_model_that_hangs_turns_health_off_and_ends_its_calls_at_their_deadlines(tmp_path: Path) -> None:
    gate, faulty = threading.Event(), threading.Event()
    gate.set()

    def open_session(path: Path, _device: str, _threads: int) -> Session:
        return small.TinyRanker() if path.name == RANKER else HangingEncoder(gate)

    settings = ServerSettings(
        bundle=[small.write_bundle(tmp_path / "1")],
        port=0,
        metrics_port=0,
        sessions=1,
        hang_timeout_ms=100,
        default_timeout_ms=500,
        grace_ms=0,
        _cli_parse_args=[],
    )
    app = App(settings, open_session=open_session)
    app.on_fault(faulty.set)
    app.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{app.port}") as channel:
            stub, health = RecommenderServiceStub(channel), health_pb2_grpc.HealthStub(channel)
            assert stub.Recommend(pb.RecommendRequest(query="film"), timeout=LONG).items
            gate.clear()
            with pytest.raises(grpc.RpcError) as caught:
                stub.Recommend(pb.RecommendRequest(query="another film"))  # no deadline but the server's
            assert isinstance(caught.value, grpc.Call)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert faulty.wait(LONG)
            assert "does not answer" in app.fault
            state = health.Check(health_pb2.HealthCheckRequest(), timeout=LONG).status
            assert state == health_pb2.HealthCheckResponse.NOT_SERVING
    finally:
        gate.set()
        app.stop()


def test_watchdog_says_nothing_of_a_worker_that_works(tmp_path: Path) -> None:
    settings = ServerSettings(
        bundle=[small.write_bundle(tmp_path / "1")],
        port=0,
        metrics_port=0,
        sessions=1,
        hang_timeout_ms=100,
        _cli_parse_args=[],
    )
    app = App(
        settings,
        open_session=lambda path, *_: small.TinyRanker() if path.name == RANKER else small.TinyEncoder(),
    )
    app.start()
    with grpc.insecure_channel(f"127.0.0.1:{app.port}") as channel:
        stub = RecommenderServiceStub(channel)
        for n in range(50):
            assert stub.Recommend(pb.RecommendRequest(query=f"film {n}"), timeout=LONG).items
    app.stop()
    assert app.fault == ""


def test_thread_that_dies_says_so() -> None:
    class Dying:
        has_work, step_s = True, 0.0

        def step(self) -> None:
            raise KeyboardInterrupt

        def refuse_all(self, _error: SwiftrecError) -> None:
            """It has admitted nothing."""

    reasons: list[str] = []
    thread = WorkerThread(Dying(), reasons.append)  # type: ignore[arg-type] # a worker by hand
    thread.start()
    until(lambda: bool(reasons))
    assert reasons == ["the worker's thread has died"]
    thread.stop()
