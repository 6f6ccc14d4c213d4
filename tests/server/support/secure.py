"""Servers with TLS, client certificates and tokens, connections to them, and how a call ends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import trustme

from swiftrec.server.app import App
from swiftrec.server.config import ServerSettings
from swiftrec.server.models.bundle import Bundle
from tests.files import put

TOKEN, OTHER = "0123456789abcdef-token", "fedcba9876543210-token"
ENCODE = "/swiftrec.v1.EncoderService/Encode"
CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
OK, UNAUTHENTICATED, UNAVAILABLE = grpc.StatusCode.OK, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE


class Identity:
    """A certificate for these hosts and its key in files, signed by a new certificate authority."""

    def __init__(self, folder: Path, *hosts: str) -> None:
        self._hosts = hosts or ("localhost", "127.0.0.1")
        self.cert, self.key, self.ca = folder / "cert.pem", folder / "key.pem", folder / "ca.pem"
        self.renew()

    def renew(self) -> None:
        """Another authority, certificate and key in the same files."""
        authority = trustme.CA()
        issued = authority.issue_cert(*self._hosts)
        self.root, self.secret = authority.cert_pem.bytes(), issued.private_key_pem.bytes()
        self.chain = b"".join(pem.bytes() for pem in issued.cert_chain_pems)
        for path, data in ((self.ca, self.root), (self.key, self.secret), (self.cert, self.chain)):
            put(path, data)


@contextmanager
def serving(bundle: Bundle, **given: object) -> Iterator[App]:
    """A server on free ports with these settings."""
    plain = {"bundle": bundle.folder, "port": 0, "metrics_port": 0}
    running = App(ServerSettings.model_validate(plain | given))
    running.start()
    try:
        yield running
    finally:
        running.stop()


@contextmanager
def connected(app: App, root: bytes | None = None, identity: Identity | None = None) -> Iterator[grpc.Channel]:
    """A separate connection: plaintext, or TLS that trusts `root`, with or without a client certificate."""
    address, options = f"127.0.0.1:{app.port}", [("grpc.use_local_subchannel_pool", 1)]
    if root is None:
        channel = grpc.insecure_channel(address, options)
    else:
        pair = (identity.secret, identity.chain) if identity else (None, None)
        channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(root, *pair), options)
    with channel:
        yield channel


def bearer(token: str) -> list[tuple[str, str | bytes]]:
    return [("authorization", f"Bearer {token}")]


def outcome(
    channel: grpc.Channel, method: str, metadata: Iterable[tuple[str, str | bytes]] = (), data: bytes = b""
) -> tuple[grpc.StatusCode, str]:
    """Code and sentence of a call of any kind (all kinds look alike on the wire), seen at its first reply."""
    call = channel.stream_stream(method, bytes, bytes)(iter([data]), metadata=tuple(metadata), timeout=20)
    try:
        next(iter(call), None)
    except grpc.RpcError:
        return call.code(), call.details()
    finally:
        call.cancel()  # type: ignore[no-untyped-call]
    return OK, ""


def code(channel: grpc.Channel, method: str, *metadata: tuple[str, str | bytes]) -> grpc.StatusCode:
    return outcome(channel, method, metadata)[0]
