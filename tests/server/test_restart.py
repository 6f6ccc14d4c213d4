"""A process that cannot answer any more ends with exit code 70, so that its supervisor restarts it."""

from __future__ import annotations

import threading
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from swiftrec.server.__main__ import EXIT_FAULT
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from swiftrec.server.pb.swiftrec.v1.recommender_pb2_grpc import RecommenderServiceStub
from tests.server import faulty, small
from tests.server.test_endpoint import connect, running
from tests.until import LONG

_SERVING, _NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
_HOUR_MS = 3_600_000
_REQUEST = pb.RecommendRequest(query="film")


@pytest.mark.parametrize("fault", ["hang", "poller"])
def test_process_that_cannot_answer_ends_with_the_code_for_its_supervisor(tmp_path: Path, fault: str) -> None:
    """It does not wait for the drain. A stop without a fault has code 0: `serving` checks that."""
    flags = ("--port", "0", "--grace-ms", "0", "--hang-timeout-ms", "100", "--drain-ms", str(_HOUR_MS))
    bundle = small.write_bundle(tmp_path / "1")
    with faulty.process(fault, bundle, *flags) as (process, address), grpc.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=LONG)
        if fault == "hang":
            assert next(health).status == _SERVING
        call = RecommenderServiceStub(channel).Recommend.future(_REQUEST, timeout=LONG)
        if fault == "hang":
            assert next(health).status == _NOT_SERVING
        assert process.wait(LONG) == EXIT_FAULT
        with pytest.raises(grpc.RpcError):
            call.result(LONG)


@pytest.mark.parametrize("fault_comes", ["before the stop", "during the drain"])
def test_fault_ends_the_drain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault_comes: str) -> None:
    has_failed = threading.Event()
    with running(tmp_path, drain_ms=_HOUR_MS, grace_ms=0) as app, connect(app) as channel:
        app.on_fault(has_failed.set)
        monkeypatch.setattr(app.worker, "step", lambda: 1 / 0)
        health = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=LONG)
        assert next(health).status == _SERVING
        stopping = threading.Thread(target=app.stop)
        if fault_comes == "during the drain":
            stopping.start()
            assert next(health).status == _NOT_SERVING
            assert not has_failed.is_set()
        with pytest.raises(grpc.RpcError):
            RecommenderServiceStub(channel).Recommend(_REQUEST, timeout=LONG)
        assert has_failed.wait(LONG)
        if fault_comes == "before the stop":
            stopping.start()
        stopping.join(LONG)
        assert not stopping.is_alive()
        health.cancel()
