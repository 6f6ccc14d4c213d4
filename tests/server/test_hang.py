"""A model that hangs: nothing waits for it without end, and the server asks to be restarted."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from numpy.typing import NDArray

from swiftrec.server.app import App
from swiftrec.server.batching.admission import Load
from swiftrec.server.config import ServerSettings
from swiftrec.server.errors import SwiftrecError
from swiftrec.server.models.bundle import RANKER
from swiftrec.server.models.session import Session
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from swiftrec.server.pb.swiftrec.v1.recommender_pb2_grpc import RecommenderServiceStub
from swiftrec.server.worker.loop import WorkerThread
from tests.server import small
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


@pytest.mark.parametrize(("predicted_s", "limit_s"), [(0.0, 10.0), (5.0, 20.0)])
def test_step_hangs_after_its_timeout_and_four_times_its_predicted_time(predicted_s: float, limit_s: float) -> None:
    class OneStep:
        """A worker by hand that has one step to do."""

        has_work, load, step_s = True, Load(0, 0, 0.0), predicted_s

        def step(self) -> None:
            now = time.monotonic()
            hanging.extend(thread.is_hanging(now + later) for later in (0.0, limit_s - 1.0, limit_s + 1.0))
            self.has_work = False

    hanging: list[bool] = []
    thread = WorkerThread(OneStep(), hang_timeout_s=10.0)  # type: ignore[arg-type] # a worker by hand
    thread.start()
    thread.stop()
    assert hanging == [False, False, True]
    assert not thread.is_hanging(time.monotonic() + 1e6)  # nothing runs


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
