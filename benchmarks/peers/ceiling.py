"""What the client itself can do, found against bare servers that answer without a model."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import partial

from swiftrec.benchmarks.peers import messages
from swiftrec.benchmarks.peers.asked import Asked
from swiftrec.benchmarks.peers.family import free_ports, launched
from swiftrec.benchmarks.peers.install import HOME
from swiftrec.benchmarks.peers.measure import Plan, closed_loop, is_answering
from swiftrec.benchmarks.peers.reference import Scores
from swiftrec.benchmarks.peers.targets import Target
from swiftrec.benchmarks.peers.wire import connected
from swiftrec.benchmarks.process import SERVER_CORE, load_cores
from swiftrec.benchmarks.workload import PATHS
from swiftrec.server.pb.swiftrec.v1.encoder_pb2 import EncodeRequest

_START_S = 30.0


def client_costs(texts: Sequence[str], tokens: Sequence[int], scores: Scores, plan: Plan) -> dict[str, float]:
    """CPU microseconds of the client for each request, by wire; a million over it is the most that it can send.

    Raises:
        PeerError: a bare server does not start.
    """
    return {target.wire: _cost(target, Asked(target, scores, texts, tokens), plan) for target in (_GRPC, _HTTP)}


def _cost(target: Target, asked: Asked, plan: Plan) -> float:
    (port,) = free_ports(1)
    bare = {
        "grpc": ["swiftrec.benchmarks", "echo", "--port", str(port)],
        "http": ["swiftrec.benchmarks.peers.servers.http_echo"],
    }
    command = [sys.executable, "-m", *bare[target.wire]]
    environment = {**os.environ, "PEER_PORT": str(port)}
    HOME.mkdir(parents=True, exist_ok=True)
    with (
        launched(command, environment, SERVER_CORE, HOME / "echo.log") as family,
        connected(target.wire, port, target.method, min(load_cores())) as ask,
    ):
        family.wait_until(partial(is_answering, ask, asked), _START_S)
        found = closed_loop(family, ask, asked, plan, plan.in_flight)
    return 1e6 * found.client_s / max(1, len(found.answers))


def _pack(texts: Sequence[str]) -> bytes:
    return EncodeRequest(texts=texts).SerializeToString()


def _unpack(_: bytes) -> list[list[str]]:
    return [["not looked at"]]


_GRPC = Target("client", "bare", "grpc", PATHS["encode"], _pack, _unpack)
_HTTP = Target("client", "bare", "http", "/", lambda texts: messages.post("/", texts[0].encode()), _unpack)
