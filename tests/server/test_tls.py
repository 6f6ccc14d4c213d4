"""Real servers with TLS and client certificates: who gets in, who does not, and files that change."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from swiftrec.server.models.bundle import Bundle
from tests.files import put
from tests.server.secure import (
    CHECK,
    ENCODE,
    OK,
    TOKEN,
    UNAUTHENTICATED,
    UNAVAILABLE,
    Identity,
    bearer,
    code,
    connected,
    serving,
)


@pytest.fixture
def identity(tmp_path: Path) -> Identity:
    return Identity(tmp_path)


@pytest.fixture
def client(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return Identity(tmp_path_factory.mktemp("client"))


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    return put(tmp_path / "tokens", TOKEN.encode())


def test_tls_serves_and_plaintext_is_refused(bundle: Bundle, identity: Identity, client: Identity) -> None:
    with serving(bundle, tls_cert=identity.cert, tls_key=identity.key) as app:
        with connected(app, identity.root) as channel:
            assert code(channel, CHECK) is OK
        with connected(app) as channel:
            assert code(channel, CHECK) is UNAVAILABLE
        with connected(app, client.root) as channel:
            assert code(channel, CHECK) is UNAVAILABLE


def test_client_certificate_is_demanded_and_verified(bundle: Bundle, identity: Identity, client: Identity) -> None:
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


def test_connection_that_never_shakes_hands_is_closed(bundle: Bundle, identity: Identity) -> None:
    with (
        serving(bundle, tls_cert=identity.cert, tls_key=identity.key) as app,
        socket.create_connection(("127.0.0.1", app.port), timeout=60) as peer,
    ):
        assert peer.recv(1) == b""  # by itself gRPC waits 120 s
