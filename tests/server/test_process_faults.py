"""Hanging models, killed processes and restarts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import grpc
import numpy as np
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from numpy.typing import NDArray

from swiftrec.server import signals
from swiftrec.server.__main__ import EXIT_FAULT
from swiftrec.server.app import App
from swiftrec.server.batching.admission import Load
from swiftrec.server.config import ServerSettings
from swiftrec.server.errors import SwiftrecError
from swiftrec.server.models.bundle import RANKER
from swiftrec.server.models.session import Session
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from swiftrec.server.pb.swiftrec.v1.recommender_pb2_grpc import RecommenderServiceStub
from swiftrec.server.worker.loop import WorkerThread
from tests.conftest import ROOT
from tests.server.support import faulty, small
from tests.server.support.apps import connect, running
from tests.server.support.held import hold_steps
from tests.until import LONG, until


class HangingEncoder(small.TinyEncoder):
    """Hangs while its gate is closed."""

    def __init__(self, gate: threading.Event) -> None:
        self._gate = gate

    def run(self, feeds: dict[str, NDArray[np.generic]]) -> NDArray[np.float32]:
        """Both halves, once the gate is open."""
        assert self._gate.wait(LONG)
        return super().run(feeds)


def test_hanging_model_turns_health_off_and_its_calls_end_at_their_deadlines(tmp_path: Path) -> None:
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
            assert "does not respond" in app.fault
            state = health.Check(health_pb2.HealthCheckRequest(), timeout=LONG).status
            assert state == health_pb2.HealthCheckResponse.NOT_SERVING
    finally:
        gate.set()
        app.stop()


@pytest.mark.parametrize(("predicted_s", "limit_s"), [(0.0, 10.0), (5.0, 20.0)])
def test_step_counts_as_hanging_after_timeout_and_four_times_its_predicted_time(
    predicted_s: float, limit_s: float
) -> None:
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


def test_dead_worker_thread_is_reported_with_a_reason() -> None:
    class Dying:
        has_work, step_s = True, 0.0

        def step(self) -> None:
            raise KeyboardInterrupt

        def fail_all(self, _error: SwiftrecError) -> None:
            """It has admitted nothing."""

    reasons: list[str] = []
    thread = WorkerThread(Dying(), reasons.append)  # type: ignore[arg-type] # a worker by hand
    thread.start()
    until(lambda: bool(reasons))
    assert reasons == ["the worker thread has died"]
    thread.stop()


_SERVING, _NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


_HOUR_MS = 3_600_000


_REQUEST = pb.RecommendRequest(query="film")


@pytest.mark.parametrize("fault", ["hang", "poller"])
def test_process_exits_with_the_fault_code_when_it_cannot_answer(tmp_path: Path, fault: str) -> None:
    """It does not wait for the drain. A stop without a fault has code 0: `serving` checks that."""
    flags = ("--port", "0", "--grace-ms", "1000", "--hang-timeout-ms", "100", "--drain-ms", str(_HOUR_MS))
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


_CALLS = 50


_CLIENT = """
import sys
from tests.server.support.http2 import Peer
peer = Peer(int(sys.argv[1]))
for n in range(int(sys.argv[2])):
    peer.call(2 * n + 1, "/swiftrec.v1.RecommenderService/" + ("Recommend" if n % 2 else "StreamRecommend"))
    peer.send(2 * n + 1, b"", ends=n % 4 < 2)
sys.stdin.read()
"""


def test_client_that_is_killed_leaves_no_call_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its calls wait for the worker, or for its next message."""
    gate = hold_steps(monkeypatch)
    with running(tmp_path, max_calls=256) as app, connect(app) as channel:
        calls, streams = app.limiters.calls, app.limiters.streams
        command = [sys.executable, "-c", _CLIENT, str(app.port), str(_CALLS)]
        with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE) as client:
            until(lambda: (calls.in_use, streams.in_use) == (_CALLS / 2, _CALLS / 2))
            client.kill()
        until(lambda: calls.in_use == 0)  # the worker is still held
        gate.set()
        until(lambda: streams.in_use == 0)
        assert RecommenderServiceStub(channel).Recommend(_REQUEST, timeout=LONG).items
        assert not app.worker.has_work


def all_threads_are_stopped(pid: int) -> bool:
    """SIGSTOP reaches the threads of a process one after the other."""
    states = [path.read_text().rpartition(")")[2].split()[0] for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    return set(states) == {"T"}


def test_suspended_server_answers_calls_after_it_resumes(tmp_path: Path) -> None:
    """Then it is killed: its calls are UNAVAILABLE, and the same channel finds the server that is started again."""
    bundle = small.write_bundle(tmp_path / "1")
    with faulty.process("none", bundle, "--port", "0") as (process, address), grpc.insecure_channel(address) as channel:
        stub = RecommenderServiceStub(channel)
        assert stub.Recommend(_REQUEST, timeout=LONG).items
        for late in (False, True):
            psutil.Process(process.pid).suspend()
            until(lambda: all_threads_are_stopped(process.pid))
            calls = [stub.Recommend.future(_REQUEST, timeout=LONG) for _ in range(_CALLS)]
            given_up = stub.Recommend.future(_REQUEST, timeout=0.1)
            assert given_up.code() is grpc.StatusCode.DEADLINE_EXCEEDED  # the client need not wait for the server
            if late:
                break
            psutil.Process(process.pid).resume()
            assert all(call.result(LONG).items for call in calls)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait(LONG) == -signal.SIGKILL
        assert {call.code() for call in calls} == {grpc.StatusCode.UNAVAILABLE}
        with faulty.process("none", bundle, "--port", address.rpartition(":")[2]) as (_, again):
            assert again == address
            assert stub.Recommend(_REQUEST, timeout=LONG, wait_for_ready=True).items


_PROGRAM = """
import signal, sys, threading
from swiftrec.server.signals import on_signals

stop = threading.Event()
if sys.argv[1] == "ours":
    on_signals(stop.set)
else:
    signal.signal(signal.SIGTERM, lambda _number, _frame: stop.set())
threading.Timer(0.2, lambda: signal.pthread_kill(threading.get_ident(), signal.SIGTERM)).start()
print("waits", flush=True)
stop.wait()
"""


@pytest.mark.parametrize("way", ["ours", "plain"])
def test_signal_to_another_thread_ends_the_wait_of_the_main_one(way: str) -> None:
    with subprocess.Popen([sys.executable, "-c", _PROGRAM, way], cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        try:
            if way == "ours":
                assert process.wait(30) == 0
            else:  # what the thread is for: a handler alone is not run
                with pytest.raises(subprocess.TimeoutExpired):
                    process.wait(2)
        finally:
            process.kill()


@pytest.mark.parametrize(("serves", "stops"), [(False, 0), (True, 1)])
def test_signal_during_the_start_stops_the_server_and_exits(
    monkeypatch: pytest.MonkeyPatch, serves: bool, stops: int
) -> None:
    reported: list[Callable[[], None]] = []
    left = threading.Event()
    done: list[str] = []
    monkeypatch.setattr("swiftrec.server.signals.on_signals", reported.append)

    def leave(code: int) -> None:
        done.append(f"exit {code}")
        left.set()

    monkeypatch.setattr("swiftrec.server.signals.os._exit", leave)
    app = SimpleNamespace(
        has_started=False,
        registry=SimpleNamespace(ready=lambda: ["engine"] if serves else []),
        stop=lambda: done.append("stop"),
        cancel_in_flight=lambda: done.append("cancel_in_flight"),
    )
    stop = signals.stop_on_signals(cast(App, app))
    reported[0]()
    assert left.wait(30)
    assert done == ["stop"] * stops + ["exit 0"]
    assert stop.is_set()
    reported[0]()
    assert done[-1] == "cancel_in_flight"
