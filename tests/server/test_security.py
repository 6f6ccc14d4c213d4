"""What security reads: token and certificate files, their rotation, and what is said when they are bad."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from swiftrec.server.config import ServerSettings
from swiftrec.server.errors import ConfigError
from swiftrec.server.front.security import Tokens, server_credentials
from tests.files import put

_OLD, _NEW = "old-token-0123456789", "new-token-9876543210"


def settings(**given: object) -> ServerSettings:
    return ServerSettings.model_validate({"bundle": "x"} | given)


def bearer(token: str, scheme: str = "Bearer") -> list[tuple[str, str | bytes]]:
    return [("user-agent", "test"), ("authorization", f"{scheme} {token}")]


@pytest.fixture
def tls(tmp_path: Path) -> dict[str, Path]:
    """Certificate, key and client authority that fit."""
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    put(tmp_path / "cert.pem", *(pem.bytes() for pem in issued.cert_chain_pems))
    put(tmp_path / "key.pem", issued.private_key_pem.bytes())
    put(tmp_path / "ca.pem", authority.cert_pem.bytes())
    return {name: tmp_path / file for name, file in _TLS_FILES.items()}


_TLS_FILES = {"tls_cert": "cert.pem", "tls_key": "key.pem", "tls_client_ca": "ca.pem"}


def test_token_of_the_file_is_accepted_and_nothing_else(tmp_path: Path) -> None:
    tokens = Tokens(put(tmp_path / "tokens", f"# one\n\n  {_OLD}  \n{_NEW}\r\n".encode()))
    assert tokens.accept(bearer(_OLD))
    assert tokens.accept(bearer(_NEW, "bearer"))
    refused: list[list[tuple[str, str | bytes]]] = [
        [],
        bearer(_OLD[:-1]),
        bearer(_OLD + "x"),
        bearer(""),
        bearer("# one"),
        bearer(f" {_OLD}"),
        bearer("\u00e9\udcff" * 10),
        bearer(_OLD, "Basic"),
        bearer(_OLD, ""),
        [("authorization", _OLD)],
        [("authorization", "")],
        [("x-authorization", f"Bearer {_OLD}")],
        [*bearer(_OLD), *bearer(_OLD)],
        [*bearer("wrong"), *bearer(_OLD)],
    ]
    assert [metadata for metadata in refused if tokens.accept(metadata)] == []


def test_tokens_rotate_with_the_file(tmp_path: Path) -> None:
    path = put(tmp_path / "tokens", _OLD.encode())
    tokens = Tokens(path)
    put(path, _NEW.encode())
    assert not tokens.accept(bearer(_OLD))
    assert tokens.accept(bearer(_NEW))


@pytest.mark.parametrize("broken", [b"", b"# none\n", b"short-secret\n", None])
def test_broken_token_file_keeps_the_old_tokens_and_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, broken: bytes | None
) -> None:
    path = put(tmp_path / "tokens", _OLD.encode())
    tokens = Tokens(path)
    if broken is None:
        path.unlink()
    else:
        put(path, broken)
    with caplog.at_level(logging.INFO):
        assert tokens.accept(bearer(_OLD))
        assert tokens.accept(bearer(_OLD))
    assert len(caplog.records) == 1
    assert caplog.records[0].levelname == "ERROR"
    assert "--token-file" in caplog.text
    assert "stays in use" in caplog.text
    assert "short-secret" not in caplog.text
    assert _OLD not in caplog.text
    put(path, _NEW.encode())
    assert tokens.accept(bearer(_NEW))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "has no token: write one a line"),
        (b"# only a comment\n", "has no token"),
        (b"exactly-15-long\n", "line 1: a token is at least 16"),
        (b"# c\n\nname: 0123456789abcdef\n", "line 3: a token is at least 16 visible ASCII characters without spaces"),
        (b"\xff" * 20, "line 1: a token"),
        (None, "cannot be read"),
    ],
)
def test_invalid_token_file_is_refused_with_flag_and_remedy(
    tmp_path: Path, content: bytes | None, sentence: str
) -> None:
    if content is not None:
        put(tmp_path / "tokens", content)
    with pytest.raises(ConfigError, match=sentence) as caught:
        Tokens(tmp_path / "tokens")
    assert str(caught.value).startswith(f"--token-file {tmp_path / 'tokens'}")
    assert "0123456789abcdef" not in str(caught.value)


def test_without_tls_there_are_no_credentials() -> None:
    assert server_credentials(settings()) is None


def test_valid_certificates_are_accepted(tls: dict[str, Path]) -> None:
    assert server_credentials(settings(**tls)) is not None


def _encrypt(key: Path) -> None:
    secret = load_pem_private_key(key.read_bytes(), None)
    put(key, secret.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password")))


def _other_key(key: Path) -> None:
    put(key, trustme.CA().issue_cert("localhost").private_key_pem.bytes())


@pytest.mark.parametrize(
    ("name", "damage", "sentence"),
    [
        ("tls_cert", Path.unlink, "--tls-cert .* cannot be read"),
        ("tls_cert", lambda path: put(path, b"no PEM"), "--tls-cert .* is not a PEM file with a certificate"),
        (
            "tls_cert",
            lambda path: put(path, path.with_name("key.pem").read_bytes()),
            "is not a PEM file with a certificate",
        ),
        ("tls_key", Path.unlink, "--tls-key .* cannot be read"),
        ("tls_key", lambda path: put(path, b""), "--tls-key .* is not a PEM file with a private key"),
        ("tls_key", lambda path: (path.unlink(), path.mkdir()), "--tls-key .* cannot be read"),
        ("tls_key", _other_key, "--tls-key .* is not the key of --tls-cert"),
        ("tls_key", _encrypt, "its unencrypted key"),
        ("tls_client_ca", Path.unlink, "--tls-client-ca .* cannot be read"),
        ("tls_client_ca", lambda path: put(path, b"no PEM"), "--tls-client-ca .* is not a PEM file with a certificate"),
        (
            "tls_client_ca",
            lambda path: put(path, b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
            "--tls-client-ca .* cannot be used: give PEM certificates",
        ),
    ],
)
def test_invalid_certificate_file_is_refused_with_flag_and_remedy(
    tls: dict[str, Path], name: str, damage: Callable[[Path], object], sentence: str
) -> None:
    damage(tls[name])
    with pytest.raises(ConfigError, match=sentence):
        server_credentials(settings(**tls))


@pytest.mark.parametrize(
    ("given", "offered"),
    [
        ({}, True),
        ({"reflection": False}, False),
        ({"token_file": "x"}, False),
        ({"token_file": "x", "reflection": True}, True),
        ({"tls_cert": "x", "tls_key": "x"}, True),
        ({"tls_cert": "x", "tls_key": "x", "tls_client_ca": "x"}, False),
    ],
)
def test_reflection_is_off_by_default_when_authentication_is_on(given: dict[str, object], offered: bool) -> None:
    assert settings(**given).has_reflection is offered
