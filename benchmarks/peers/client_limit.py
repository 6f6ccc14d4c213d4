"""What the client itself can do, measured against bare servers without a model."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import partial

from swiftrec.benchmarks.peers import messages
from swiftrec.benchmarks.peers.ground_truth import GroundTruth
from swiftrec.benchmarks.peers.install import HOME
from swiftrec.benchmarks.peers.measure import LoadShape, closed_loop, is_answering
from swiftrec.benchmarks.peers.process_tree import free_ports, launched
from swiftrec.benchmarks.peers.session import PeerSession
from swiftrec.benchmarks.peers.targets import Target
from swiftrec.benchmarks.peers.transports import connected
from swiftrec.benchmarks.server_process import SERVER_CORE, load_cores
from swiftrec.benchmarks.workload import PATHS
from swiftrec.server.pb.swiftrec.v1.encoder_pb2 import EncodeRequest

_START_S = 30.0


def client_costs(texts: Sequence[str], tokens: Sequence[int], truth: GroundTruth, shape: LoadShape) -> dict[str, float]:
    """CPU microseconds of the client a request, by transport; a million over it is the most that it can send a second.

    Raises:
        PeerError: a bare server does not start.
    """
    return {
        target.transport: _cost(target, PeerSession(target, truth, texts, tokens), shape) for target in (_GRPC, _HTTP)
    }


def _cost(target: Target, session: PeerSession, shape: LoadShape) -> float:
    (port,) = free_ports(1)
    bare = {
        "grpc": ["swiftrec.benchmarks", "echo", "--port", str(port)],
        "http": ["swiftrec.benchmarks.peers.servers.http_echo"],
    }
    command = [sys.executable, "-m", *bare[target.transport]]
    environment = {**os.environ, "PEER_PORT": str(port)}
    HOME.mkdir(parents=True, exist_ok=True)
    with (
        launched(command, environment, SERVER_CORE, HOME / "echo.log") as tree,
        connected(target.transport, port, target.method, min(load_cores())) as send,
    ):
        tree.wait_until(partial(is_answering, send, session), _START_S)
        full = closed_loop(tree, send, session, shape, shape.in_flight)
    return 1e6 * full.client_s / max(1, len(full.rankings))


def _pack(texts: Sequence[str]) -> bytes:
    return EncodeRequest(texts=texts).SerializeToString()


def _unpack(_: bytes) -> list[list[str]]:
    return [["not read"]]


_GRPC = Target("client", "bare", "grpc", PATHS["encode"], _pack, _unpack)
_HTTP = Target("client", "bare", "http", "/", lambda texts: messages.post("/", texts[0].encode()), _unpack)
