"""How much one connection may send: messages, metadata, streams, connections, pings."""

from __future__ import annotations

import socket
import struct

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from swiftrec.server.app import App
from swiftrec.server.models.bundle import Bundle
from swiftrec.server.pb.swiftrec.v1 import encoder_pb2
from tests.server.http2 import Peer, refused_stream
from tests.server.secure import CHECK, ENCODE, OK, UNAVAILABLE, code, connected, outcome, serving


def test_message_and_metadata_over_the_limit_are_refused(bundle: Bundle) -> None:
    with serving(bundle, max_message_bytes=2_048, max_metadata_bytes=2_048) as app, connected(app) as channel:
        small = encoder_pb2.EncodeRequest(texts=["x" * 1_000]).SerializeToString()
        large = encoder_pb2.EncodeRequest(texts=["x" * 1_000] * 9).SerializeToString()
        assert outcome(channel, ENCODE, [("x-fill", "x" * 1_000)], small) == (OK, "")
        assert outcome(channel, ENCODE, [], large)[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert outcome(channel, ENCODE, [("x-fill", "x" * 2_000)], small)[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert outcome(channel, ENCODE, [], small) == (OK, "")


def test_streams_over_the_limit_wait_on_their_connection_only(bundle: Bundle) -> None:
    with serving(bundle, max_streams=2) as app, connected(app) as channel, connected(app) as other:
        stub = health_pb2_grpc.HealthStub(channel)
        held = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(2)]
        assert all(next(call).status == health_pb2.HealthCheckResponse.SERVING for call in held)
        third = stub.Check.future(health_pb2.HealthCheckRequest(), timeout=20)
        assert code(other, CHECK) is OK
        assert not third.done()
        held[0].cancel()
        assert third.result().status == health_pb2.HealthCheckResponse.SERVING
        held[1].cancel()


def test_streams_that_come_over_the_limit_all_the_same_are_refused_by_grpc(bundle: Bundle) -> None:
    """As a client sends them that has not read the limit yet; it sees UNAVAILABLE."""
    with serving(bundle, max_streams=2) as app, connected(app) as other, Peer(app.port) as peer:
        for n in range(5):
            peer.call(2 * n + 1, CHECK)
        seen = peer.ping()
        assert [stream for stream in (1, 3, 5, 7, 9) if refused_stream(stream) in seen] == [5, 7, 9]
        assert code(other, CHECK) is OK


def test_connections_over_the_limit_are_closed(bundle: Bundle) -> None:
    with serving(bundle, max_connections=1) as app, connected(app) as channel:
        assert code(channel, CHECK) is OK
        with connected(app) as second:
            assert code(second, CHECK) is UNAVAILABLE
        assert code(channel, CHECK) is OK


def test_connection_that_pings_without_end_is_closed(app: App) -> None:
    settings, ping = b"\0\0\0\4\0\0\0\0\0", b"\0\0\x08\6\0\0\0\0\0" + bytes(8)
    with socket.create_connection(("127.0.0.1", app.port), timeout=20) as peer:
        peer.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings + ping * 10)
        answer = b"".join(iter(lambda: peer.recv(4_096), b""))
    assert struct.pack(">I", 11) + b"too_many_pings" in answer  # ENHANCE_YOUR_CALM, RFC 9113 section 7
