"""Settings of the age of connections and of the pings of clients take effect in gRPC."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from swiftrec.server.config import ServerSettings
from swiftrec.server.front.security import connection_limits
from tests.server.support.http2 import ACK, Peer
from tests.until import LONG

_GRPC_LIBRARY = b"".join(path.read_bytes() for path in (Path(grpc.__file__).parent / "_cython").glob("cygrpc*.so"))
_WATCH = "/grpc.health.v1.Health/Watch"
_HELD = "/test.Service/Held"
_REQUEST = health_pb2.HealthCheckRequest()
_SERVING = health_pb2.HealthCheckResponse.SERVING
_TOO_MANY_PINGS = struct.pack(">I", 11) + b"too_many_pings"


def settings(**given: object) -> ServerSettings:
    return ServerSettings.model_validate({"bundle": "x"} | given)


class Held(grpc.GenericRpcHandler):  # type: ignore[type-arg] # the stub is generic, the class is not
    """A method that answers when the gate opens."""

    def __init__(self) -> None:
        self.entered, self.gate = threading.Event(), threading.Event()

    def service(self, details: grpc.HandlerCallDetails) -> Any:  # noqa: ANN401 (the stub's type is generic)
        return grpc.unary_unary_rpc_method_handler(self._answer) if details.method == _HELD else None

    def _answer(self, request: bytes, _context: grpc.ServicerContext) -> bytes:
        self.entered.set()
        assert self.gate.wait(LONG)
        return request


@contextmanager
def server(held: Held | None = None, **given: object) -> Iterator[int]:
    """The port of a gRPC server that has the limits of these settings."""
    running = grpc.server(
        ThreadPoolExecutor(8), handlers=[held] if held else [], options=connection_limits(settings(**given))
    )
    health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), running)
    port = running.add_insecure_port("127.0.0.1:0")
    running.start()
    yield port
    running.stop(0).wait()


class Client:
    """A channel with a separate connection; counts how often the connection is lost."""

    def __init__(self, port: int) -> None:
        self.lost = threading.Semaphore(0)
        self._was_ready = False
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)])
        self.channel.subscribe(self._changed)
        self.health = health_pb2_grpc.HealthStub(self.channel)

    def check(self) -> bool:
        return bool(self.health.Check(_REQUEST, timeout=LONG, wait_for_ready=True).status == _SERVING)

    def _changed(self, state: grpc.ChannelConnectivity) -> None:
        if self._was_ready and state is not grpc.ChannelConnectivity.READY:
            self.lost.release()
        self._was_ready = state is grpc.ChannelConnectivity.READY


def test_every_channel_option_is_known_to_grpc() -> None:
    options = dict(connection_limits(settings(max_connection_age_s=1)))
    assert [name for name in options if not is_known(name)] == []
    assert not is_known("grpc.http2.min_recv_ping_interval_without_data_ms")  # as the C macro, not the option, is named


def is_known(name: str) -> bool:
    return name.encode() + b"\0" in _GRPC_LIBRARY


@pytest.mark.parametrize("has_call", [False, True])
def test_client_may_ping_as_often_as_the_setting_says(has_call: bool) -> None:
    with server(min_ping_interval_ms=20) as port, Peer(port) as peer:
        if has_call:
            peer.call(1, _WATCH)
            peer.send(1, b"", ends=False)
        seen = peer.pings(6, interval_s=0.04)
    assert (seen.count(ACK), _TOO_MANY_PINGS in seen) == (6, False)


def test_client_is_disconnected_when_it_pings_too_often() -> None:
    with server(min_ping_interval_ms=60_000) as port, Peer(port) as peer:
        assert _TOO_MANY_PINGS in peer.pings(6, interval_s=0.04)


def test_client_may_ping_every_thirty_seconds_by_default_with_and_without_calls() -> None:
    options = dict(connection_limits(settings()))
    assert options["grpc.http2.min_ping_interval_without_data_ms"] == 30_000
    assert options["grpc.keepalive_permit_without_calls"] == 1


def test_idle_connection_is_closed_after_the_limit_and_one_with_a_call_is_not() -> None:
    with server(max_connection_idle_s=0.1) as port:
        busy, idle = Client(port), Client(port)
        with busy.channel, idle.channel:
            watch = busy.health.Watch(_REQUEST, timeout=LONG)
            assert next(watch).status == _SERVING
            assert idle.check()
            assert idle.lost.acquire(timeout=LONG)
            assert watch.is_active()
            assert idle.check()  # it connects again
            assert not busy.lost.acquire(blocking=False)


def test_connection_at_its_maximum_age_closes_without_losing_a_call() -> None:
    held = Held()
    with server(held, max_connection_age_s=0.1) as port:
        client = Client(port)
        with client.channel:
            running = client.channel.unary_unary(_HELD, None, None).future(b"x", timeout=LONG)
            assert held.entered.wait(LONG)
            for _ in range(3):
                while not client.lost.acquire(blocking=False):
                    assert client.check()
            assert not running.done()
            held.gate.set()
            assert running.result(LONG) == b"x"


def test_connections_end_when_idle_and_not_by_age_by_default() -> None:
    options = dict(connection_limits(settings()))
    assert "grpc.max_connection_age_ms" not in options
    assert options["grpc.max_connection_idle_ms"] == 300_000
    assert "grpc.max_connection_idle_ms" not in dict(connection_limits(settings(max_connection_idle_s=0)))


def test_calls_keep_their_full_deadline_when_a_connection_reaches_its_maximum_age() -> None:
    limits = settings(max_connection_age_s=60, default_timeout_ms=70_000)
    assert dict(connection_limits(limits))["grpc.max_connection_age_grace_ms"] > 70_000
