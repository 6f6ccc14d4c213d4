"""Processes that are killed or stopped: a server loses nothing by its clients, and clients find it again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import psutil
import pytest

from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from swiftrec.server.pb.swiftrec.v1.recommender_pb2_grpc import RecommenderServiceStub
from tests.conftest import ROOT
from tests.server import faulty, small
from tests.server.held import hold_steps
from tests.server.test_endpoint import connect, running
from tests.until import LONG, until

_CALLS = 50
_REQUEST = pb.RecommendRequest(query="film")
_CLIENT = """
import sys
from tests.http2 import Peer
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


def test_server_that_is_stopped_for_a_moment_answers_the_calls_that_came_meanwhile(tmp_path: Path) -> None:
    """Then it is killed: its calls are UNAVAILABLE, and the same channel finds the server that is started again."""
    bundle = small.write_bundle(tmp_path / "1")
    with faulty.process("none", bundle, "--port", "0") as (process, address), grpc.insecure_channel(address) as channel:
        stub = RecommenderServiceStub(channel)
        assert stub.Recommend(_REQUEST, timeout=LONG).items
        for late in (False, True):
            psutil.Process(process.pid).suspend()
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
