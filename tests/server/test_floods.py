"""Floods of frames, bombs and slow handshakes are refused or ended, and ordinary calls are answered beside them."""

from __future__ import annotations

import gzip
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from swiftrec.server.app import App
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from swiftrec.server.pb.swiftrec.v1.recommender_pb2_grpc import RecommenderServiceStub
from tests.peak import resident_peak_of
from tests.server import http2
from tests.server.http2 import Peer
from tests.server.secure import Identity, connected
from tests.server.test_endpoint import running
from tests.until import LONG, until

_RECOMMEND = "/swiftrec.v1.RecommenderService/Recommend"
_REQUEST = pb.RecommendRequest(query="film")
_MANY = 5_000
_BOMB_BYTES, _BOMBS = 200_000_000, 4
_MAX_PEAK_BYTES = 160_000_000  # while a bomb is refused
_TOO_MANY_PINGS = struct.pack(">I", http2.ENHANCE_YOUR_CALM) + b"too_many_pings"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """A server of a small bundle."""
    with running(tmp_path_factory.mktemp("small")) as app:
        yield app


def check_that_it_serves(app: App, root: bytes | None = None) -> None:
    """An ordinary call on a connection of its own is answered, and nothing is left in flight."""
    with connected(app, root) as channel:
        assert RecommenderServiceStub(channel).Recommend(_REQUEST, timeout=LONG).items
    until(lambda: app.limiters.calls.in_use == 0)
    assert app.fault == ""


def test_calls_that_are_reset_at_once_leave_nothing_behind(server: App) -> None:
    request = _REQUEST.SerializeToString()
    calls = [http2.reset_call(2 * n + 1, _RECOMMEND, request if n % 2 else None) for n in range(_MANY)]
    with Peer(server.port) as peer:
        peer.flood(b"".join(calls))
        check_that_it_serves(server)
        assert 0 < server.metrics.calls.count("Recommend", "CANCELLED") <= _MANY  # gRPC itself refuses the others


def test_flood_of_pings_ends_its_connection(server: App) -> None:
    with Peer(server.port) as peer:
        assert _TOO_MANY_PINGS in peer.flood(http2.PING * _MANY)
        check_that_it_serves(server)


def test_flood_of_settings(server: App) -> None:
    with Peer(server.port) as peer:
        peer.flood(http2.settings() * _MANY)
        check_that_it_serves(server)


def test_headers_without_end_are_not_kept(server: App) -> None:
    """520 MB of them."""
    frames = http2.endless_headers(1, _RECOMMEND, 32_000)
    with Peer(server.port) as peer:
        assert resident_peak_of(lambda: peer.flood(frames)) < len(frames) / 2
        check_that_it_serves(server)


def test_header_that_is_repeated_by_one_byte_is_not_unpacked(server: App) -> None:
    """50 MB of headers in 16 KB, four times."""
    frames = [http2.repeated_header(2 * n + 1, _RECOMMEND, 4_000, 12_000) for n in range(_BOMBS)]
    with Peer(server.port) as peer:
        assert resident_peak_of(lambda: peer.flood(b"".join(frames))) < _MAX_PEAK_BYTES
        check_that_it_serves(server)


def test_request_of_zeros_is_not_unpacked_beyond_the_limit(server: App) -> None:
    """200 MB of zeros in a request that is short enough to be read."""
    frames = http2.compressed_call(1, _RECOMMEND, gzip.compress(bytes(_BOMB_BYTES)))
    assert len(frames) < 4_000_000
    with ExitStack() as stack:
        peers = [stack.enter_context(Peer(server.port)) for _ in range(_BOMBS)]
        assert resident_peak_of(lambda: [peer.flood(frames) for peer in peers]) < _MAX_PEAK_BYTES
        check_that_it_serves(server)


def test_peak_of_resident_memory_is_seen() -> None:
    """Negative control."""
    assert resident_peak_of(lambda: b"x" * _BOMB_BYTES) > _MAX_PEAK_BYTES


def test_handshakes_that_do_not_go_on_hold_no_other_up(tmp_path: Path) -> None:
    identity = Identity(tmp_path)
    with (
        running(tmp_path / "small", tls_cert=identity.cert, tls_key=identity.key) as app,
        ExitStack() as stack,
    ):
        for n in range(200):
            peer = stack.enter_context(socket.create_connection(("127.0.0.1", app.port), timeout=LONG))
            peer.sendall(b"\x16\x03\x01\x02\x00"[: n % 6])  # of a ClientHello, or nothing
        check_that_it_serves(app, identity.root)
