"""Real servers with TLS, client certificates and tokens: who may call, and files that change."""

from __future__ import annotations

import queue
import socket
import threading
import urllib.request
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from swiftrec.server.app import App
from swiftrec.server.front.front import Front
from swiftrec.server.front.security import DENIAL, OPEN_METHODS, methods_of
from swiftrec.server.models.bundle import Bundle
from swiftrec.server.pb.swiftrec.v1 import encoder_pb2, encoder_pb2_grpc
from swiftrec.server.services import ALL_SERVICES
from tests.files import put
from tests.server.support.http2 import Peer
from tests.server.support.secure import (
    CHECK,
    ENCODE,
    OK,
    OTHER,
    TOKEN,
    UNAUTHENTICATED,
    UNAVAILABLE,
    WATCH,
    Identity,
    bearer,
    code,
    connected,
    outcome,
    serving,
)
from tests.until import LONG, until

_MANY = 300


METHODS = methods_of(ALL_SERVICES)


UNKNOWN = [
    "/swiftrec.v1.EncoderService/None",
    "/inference.GRPCInferenceService/None",
    "/grpc.health.v1.Health/X",
    "/",
]


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    return put(tmp_path / "tokens", TOKEN.encode())


def let_in(channel: grpc.Channel, methods: Iterable[str]) -> set[str]:
    """The methods that a caller without a token gets to."""
    return {method for method in methods if code(channel, method) is not UNAUTHENTICATED}


@pytest.fixture(scope="module")
def guarded(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """A server with tokens that offers everything it has, reflection too."""
    tokens = put(tmp_path_factory.mktemp("guarded") / "tokens", TOKEN.encode())
    with serving(bundle, token_file=tokens, reflection=True) as app:
        yield app


@pytest.fixture(scope="module")
def guarded_channel(guarded: App) -> Iterator[grpc.Channel]:
    with connected(guarded) as channel:
        yield channel


@pytest.mark.parametrize("method", [*METHODS, *UNKNOWN])
def test_each_method_but_health_is_denied_without_a_token(guarded_channel: grpc.Channel, method: str) -> None:
    if method in OPEN_METHODS:
        assert code(guarded_channel, method) is OK
    else:
        assert outcome(guarded_channel, method) == (UNAUTHENTICATED, DENIAL)


def test_open_methods_are_those_of_health() -> None:
    assert set(methods_of(["grpc.health.v1.Health"])) == OPEN_METHODS


def test_checked_methods_are_all_that_the_server_registers(guarded: App) -> None:
    assert guarded.methods.names() == sorted(METHODS)


def test_check_fails_without_the_authentication_interceptor(
    channel: grpc.Channel, guarded_channel: grpc.Channel
) -> None:
    assert let_in(guarded_channel, METHODS) == OPEN_METHODS
    assert let_in(channel, METHODS) == set(METHODS)


def test_valid_token_reaches_each_method(guarded_channel: grpc.Channel) -> None:
    assert UNAUTHENTICATED not in {code(guarded_channel, method, *bearer(TOKEN)) for method in METHODS}
    assert code(guarded_channel, UNKNOWN[0], *bearer(TOKEN)) is grpc.StatusCode.UNIMPLEMENTED
    stub = encoder_pb2_grpc.EncoderServiceStub(guarded_channel)
    assert stub.Encode(encoder_pb2.EncodeRequest(texts=["x"]), metadata=tuple(bearer(TOKEN)), timeout=20).rows == 1


@pytest.mark.parametrize(
    "metadata",
    [
        bearer(OTHER),
        bearer(TOKEN[:-1]),
        bearer(""),
        [("authorization", TOKEN)],
        [("authorization", f"Basic {TOKEN}")],
        [("x-token", TOKEN)],
        [*bearer(TOKEN), *bearer(TOKEN)],
        [("authorization-bin", f"Bearer {TOKEN}".encode())],
    ],
)
def test_invalid_token_is_denied_with_one_sentence(
    guarded_channel: grpc.Channel, metadata: list[tuple[str, str | bytes]]
) -> None:
    assert outcome(guarded_channel, ENCODE, metadata) == (UNAUTHENTICATED, DENIAL)


def test_denial_does_not_wait_for_the_request(guarded_channel: grpc.Channel) -> None:
    never: queue.Queue[bytes | None] = queue.Queue()
    call = guarded_channel.stream_stream(ENCODE, bytes, bytes)(iter(never.get, None), timeout=20)
    with pytest.raises(grpc.RpcError):
        next(iter(call))
    assert call.code() is UNAUTHENTICATED
    never.put(None)


def test_silent_health_calls_without_a_token_do_not_block_others(bundle: Bundle, token_file: Path) -> None:
    with serving(bundle, token_file=token_file, max_calls=8) as app, connected(app) as channel, Peer(app.port) as peer:
        assert code(channel, CHECK) is OK
        before = threading.active_count()
        for n in range(_MANY):
            peer.call(2 * n + 1, CHECK)
        peer.ping()
        assert code(channel, CHECK) is OK
        assert code(channel, CHECK, *bearer(TOKEN)) is OK
        assert threading.active_count() < before + _MANY / 2  # the channel has a few threads too
        for n in range(_MANY):
            peer.cancel(2 * n + 1)
        until(lambda: app.metrics.calls.count("Check", "CANCELLED") == _MANY)


@pytest.mark.parametrize("method", [CHECK, WATCH])
def test_silent_health_call_releases_its_slot(
    bundle: Bundle, token_file: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    never: queue.Queue[bytes | None] = queue.Queue()
    monkeypatch.setattr("swiftrec.server.app.Front", partial(Front, first_message_timeout_s=0.3))
    with serving(bundle, token_file=token_file, max_calls=8) as app, connected(app) as channel:
        silent = channel.stream_unary(method, bytes, bytes).future(iter(never.get, None), timeout=60)
        assert isinstance(silent, grpc.Call)
        assert silent.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert code(channel, method) is OK
        never.put(None)
        watching = _watch(health_pb2_grpc.HealthStub(channel))  # a watcher that has sent its request may stay
        with pytest.raises(grpc.RpcError):
            next(watching)
        assert watching.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def _watch(stub: health_pb2_grpc.HealthStub) -> Any:  # noqa: ANN401 (its stub has no types)
    """A watch that has its first answer, as soon as the one before it has given its place back."""
    calls: list[Any] = []

    def is_answered() -> bool:
        calls.append(stub.Watch(health_pb2.HealthCheckRequest(), timeout=1.5))
        try:
            return bool(next(calls[-1]).status == health_pb2.HealthCheckResponse.SERVING)
        except grpc.RpcError:
            assert calls[-1].code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            return False

    until(is_answered)
    return calls[-1]


def test_watchers_without_a_token_block_neither_threads_nor_check(bundle: Bundle, token_file: Path) -> None:
    with serving(bundle, token_file=token_file) as app, connected(app) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watching: list[Any] = []

        def watch() -> None:
            """One after the other: calls at once may arrive in another order."""
            watching.append(stub.Watch(health_pb2.HealthCheckRequest(), timeout=LONG))
            assert next(watching[-1]).status == health_pb2.HealthCheckResponse.SERVING

        for _ in range(32):
            watch()
        known = stub.Watch(health_pb2.HealthCheckRequest(), metadata=bearer(TOKEN), timeout=LONG)
        assert next(known).status == health_pb2.HealthCheckResponse.SERVING
        for _ in range(3):  # each takes the place of the oldest
            watch()
        for call in watching[:3]:
            with pytest.raises(grpc.RpcError):
                list(call)
            assert call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "newer calls of this method" in call.details()
        assert [call.is_active() for call in watching[3:]] == [True] * 32
        assert known.is_active()
        assert code(channel, CHECK) is OK
        assert code(channel, CHECK, *bearer(TOKEN)) is OK
        until(lambda: app.metrics.calls.count("Watch", "RESOURCE_EXHAUSTED") == 3)
        known.cancel()
        for call in watching[3:]:
            call.cancel()


def test_streams_do_not_use_the_slots_of_watchers(app: App, channel: grpc.Channel) -> None:
    streams = app.limiters.streams
    places = [streams.acquire() for _ in range(streams.limit)]
    try:
        assert code(channel, "/swiftrec.v1.RecommenderService/StreamRecommend") is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert code(channel, WATCH) is OK
    finally:
        for index in places:
            streams.release(index)


def test_reconnecting_watchers_do_not_freeze_the_server(app: App, channel: grpc.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)

    def come_and_go() -> None:
        with suppress(grpc.RpcError):
            for _ in range(50):
                call = stub.Watch(health_pb2.HealthCheckRequest(), timeout=20)
                next(call, None)
                call.cancel()

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(come_and_go) for _ in range(8)]:
            done.result()
    assert code(channel, CHECK) is OK


def test_denials_are_counted_and_unknown_methods_share_a_label(guarded: App, guarded_channel: grpc.Channel) -> None:
    def count(method: str) -> float:
        labels = {"method": method, "code": "UNAUTHENTICATED"}
        return guarded.metrics.registry.get_sample_value("swiftrec_call_seconds_count", labels) or 0

    before = count("Encode"), count("unknown")
    for method in (ENCODE, *UNKNOWN):
        outcome(guarded_channel, method)
    after = before[0] + 1, before[1] + len(UNKNOWN)
    until(lambda: (count("Encode"), count("unknown")) == after, lambda: (count("Encode"), count("unknown"), after))
    with urllib.request.urlopen(f"http://127.0.0.1:{guarded.metrics_port}/metrics", timeout=20) as page:
        text = page.read().decode()
    assert 'method="None"' not in text
    assert TOKEN not in text


def test_reflection_is_off_with_authentication(bundle: Bundle, token_file: Path, channel: grpc.Channel) -> None:
    (method,) = methods_of([reflection.SERVICE_NAME])
    assert code(channel, method) is OK
    with serving(bundle, token_file=token_file) as app, connected(app) as guarded:
        assert code(guarded, method) is UNAUTHENTICATED
        assert code(guarded, method, *bearer(TOKEN)) is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.usefixtures("each_front")
def test_tokens_rotate_without_a_restart(bundle: Bundle, token_file: Path) -> None:
    with serving(bundle, token_file=token_file) as app, connected(app) as channel:
        assert code(channel, ENCODE, *bearer(TOKEN)) is not UNAUTHENTICATED
        put(token_file, OTHER.encode())
        assert code(channel, ENCODE, *bearer(TOKEN)) is UNAUTHENTICATED
        assert code(channel, ENCODE, *bearer(OTHER)) is not UNAUTHENTICATED
        put(token_file, b"")
        assert code(channel, ENCODE, *bearer(OTHER)) is not UNAUTHENTICATED


@pytest.fixture
def identity(tmp_path: Path) -> Identity:
    return Identity(tmp_path)


@pytest.fixture
def client(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return Identity(tmp_path_factory.mktemp("client"))


def test_tls_serves_and_plaintext_is_refused(bundle: Bundle, identity: Identity, client: Identity) -> None:
    with serving(bundle, tls_cert=identity.cert, tls_key=identity.key) as app:
        with connected(app, identity.root) as channel:
            assert code(channel, CHECK) is OK
        with connected(app) as channel:
            assert code(channel, CHECK) is UNAVAILABLE
        with connected(app, client.root) as channel:
            assert code(channel, CHECK) is UNAVAILABLE


def test_client_certificate_is_required_and_verified(bundle: Bundle, identity: Identity, client: Identity) -> None:
    given = {"tls_cert": identity.cert, "tls_key": identity.key, "tls_client_ca": client.ca}
    with serving(bundle, **given) as app:
        with connected(app, identity.root, client) as channel:
            assert code(channel, CHECK) is OK
            assert code(channel, ENCODE) is not UNAUTHENTICATED
        for stranger in (None, identity):
            with connected(app, identity.root, stranger) as channel:
                assert code(channel, CHECK) is UNAVAILABLE


def test_client_certificate_does_not_replace_the_token(
    bundle: Bundle, identity: Identity, client: Identity, token_file: Path
) -> None:
    given = {"tls_cert": identity.cert, "tls_key": identity.key, "tls_client_ca": client.ca, "token_file": token_file}
    with serving(bundle, **given) as app, connected(app, identity.root, client) as channel:
        assert code(channel, ENCODE) is UNAUTHENTICATED
        assert code(channel, ENCODE, *bearer(TOKEN)) is not UNAUTHENTICATED


@pytest.mark.usefixtures("each_front")
def test_certificate_rotates_without_a_restart(bundle: Bundle, identity: Identity) -> None:
    old = identity.root
    with serving(bundle, tls_cert=identity.cert, tls_key=identity.key) as app:
        with connected(app, old) as early:
            assert code(early, CHECK) is OK
            identity.renew()
            with connected(app, identity.root) as channel:
                assert code(channel, CHECK) is OK
            with connected(app, old) as channel:
                assert code(channel, CHECK) is UNAVAILABLE
            assert code(early, CHECK) is OK
        put(identity.cert, b"broken")
        for _ in range(2):
            with connected(app, identity.root) as channel:
                assert code(channel, CHECK) is OK


def test_client_authority_rotates_without_a_restart(bundle: Bundle, identity: Identity, client: Identity) -> None:
    given = {"tls_cert": identity.cert, "tls_key": identity.key, "tls_client_ca": client.ca}
    with serving(bundle, **given) as app:
        client.renew()
        with connected(app, identity.root, client) as channel:
            assert code(channel, CHECK) is OK


def test_connection_without_a_handshake_is_closed(bundle: Bundle, identity: Identity) -> None:
    with (
        serving(bundle, tls_cert=identity.cert, tls_key=identity.key) as app,
        socket.create_connection(("127.0.0.1", app.port), timeout=60) as peer,
    ):
        assert peer.recv(1) == b""  # by itself gRPC waits 120 s
