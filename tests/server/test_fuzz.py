"""Hostile clients: floods of frames, bombs, slow handshakes and mutated messages."""

from __future__ import annotations

import gzip
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from swiftrec.server.app import App
from swiftrec.server.errors import InvalidRequest, NotFound
from swiftrec.server.front.outcomes import request_id
from swiftrec.server.front.security import methods_of
from swiftrec.server.messages import decode as decode_message
from swiftrec.server.models.bundle import Bundle
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from swiftrec.server.pb.swiftrec.v1.recommender_pb2_grpc import RecommenderServiceStub
from swiftrec.server.services import SERVICES
from swiftrec.server.status import to_status
from swiftrec.server.worker import methods
from tests.peak import resident_peak_of
from tests.server.fuzz import decode, wire
from tests.server.fuzz.faulty import confused
from tests.server.fuzz.mutators import Cases
from tests.server.fuzz.seeds import seeds
from tests.server.support import http2
from tests.server.support.apps import running
from tests.server.support.http2 import Peer
from tests.server.support.process import serving
from tests.server.support.secure import Identity, connected
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
    """An ordinary call on a new connection is answered, and nothing is left in flight."""
    with connected(app, root) as channel:
        assert RecommenderServiceStub(channel).Recommend(_REQUEST, timeout=LONG).items
    until(lambda: app.limiters.calls.in_use == 0)
    assert app.fault == ""


def test_calls_reset_immediately_leave_no_state(server: App) -> None:
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


def test_endless_headers_are_not_buffered(server: App) -> None:
    """520 MB of them."""
    frames = http2.endless_headers(1, _RECOMMEND, 32_000)
    with Peer(server.port) as peer:
        assert resident_peak_of(lambda: peer.flood(frames)) < len(frames) / 2
        check_that_it_serves(server)


def test_compressed_repeated_header_is_not_expanded(server: App) -> None:
    """50 MB of headers in 16 KB, four times."""
    frames = [http2.repeated_header(2 * n + 1, _RECOMMEND, 4_000, 12_000) for n in range(_BOMBS)]
    with Peer(server.port) as peer:
        assert resident_peak_of(lambda: peer.flood(b"".join(frames))) < _MAX_PEAK_BYTES
        check_that_it_serves(server)


def test_compressed_request_is_not_expanded_beyond_the_limit(server: App) -> None:
    """200 MB of zeros in a request that is short enough to be read."""
    frames = http2.compressed_call(1, _RECOMMEND, gzip.compress(bytes(_BOMB_BYTES)))
    assert len(frames) < 4_000_000
    with ExitStack() as stack:
        peers = [stack.enter_context(Peer(server.port)) for _ in range(_BOMBS)]
        assert resident_peak_of(lambda: [peer.flood(frames) for peer in peers]) < _MAX_PEAK_BYTES
        check_that_it_serves(server)


def test_peak_of_resident_memory_is_measured() -> None:
    """Negative control."""
    assert resident_peak_of(lambda: b"x" * _BOMB_BYTES) > _MAX_PEAK_BYTES


def test_stalled_handshakes_do_not_delay_others(tmp_path: Path) -> None:
    identity = Identity(tmp_path)
    with (
        running(tmp_path / "small", tls_cert=identity.cert, tls_key=identity.key) as app,
        ExitStack() as stack,
    ):
        for n in range(200):
            peer = stack.enter_context(socket.create_connection(("127.0.0.1", app.port), timeout=LONG))
            peer.sendall(b"\x16\x03\x01\x02\x00"[: n % 6])  # of a ClientHello, or nothing
        check_that_it_serves(app, identity.root)


def test_every_method_of_both_protocols_has_a_valid_message() -> None:
    assert sorted(seeds()) == sorted(methods_of(SERVICES))


def test_mutated_messages_are_answered_or_refused_with_our_messages() -> None:
    assert decode.run(20_000, seed=7).failures == []


def test_decode_control_catches_a_validator_that_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "to_request", confused)
    failures = decode.run(300, seed=7).failures
    assert failures
    assert all("seed 7 case " in failure and "KeyError" in failure for failure in failures)


def test_server_state_is_unchanged_after_mutated_requests(bundle: Bundle) -> None:
    with serving(bundle.folder, module="swiftrec.benchmarks null-server") as server:
        outcome = wire.Fuzz(server, Cases(11, bundle.manifest.name), 11).run(5_000)
    assert outcome.failures == []
    assert outcome.cases == 5_000


def test_wire_control_catches_a_validator_that_raises(bundle: Bundle) -> None:
    with serving(bundle.folder, module="tests.server.fuzz.faulty") as server:
        failures = wire.Fuzz(server, Cases(11, bundle.manifest.name), 11).run(300).failures
    assert any("INTERNAL" in failure and "bytes " in failure for failure in failures)
    assert any(failure.startswith("counted: ") for failure in failures)


@pytest.mark.parametrize("text", ["x" * 1_000_000, "\u20ac" * 100_000])
def test_message_that_quotes_the_request_fits_in_a_trailer(text: str) -> None:
    for error in (InvalidRequest(text, text), NotFound(text)):
        status = to_status(error)
        percent_encoded = sum(1 if 32 <= byte < 127 else 3 for byte in status.message.encode())
        assert percent_encoded + status.ByteSize() * 4 / 3 < 7_500


def test_a_long_malformed_message_is_refused_at_once() -> None:
    with pytest.raises(InvalidRequest, match="malformed"):
        decode_message(pb.RecommendRequest, b"\x0a\x00" * 2_000_000 + b"\xff")


def test_a_request_id_beyond_ascii_is_replaced() -> None:
    actual = request_id((("x-request-id", "\u00e9"),))
    assert actual
    assert actual.isascii()
