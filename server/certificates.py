"""Finds the host names that a certificate is valid for, by a TLS handshake in memory (`ssl.MemoryBIO`)."""

from __future__ import annotations

import contextlib
import ssl
from pathlib import Path
from typing import Any

_MAX_ROUNDS = 8  # of messages in a handshake, more than any version of TLS needs


def certified_host(cert: Path, key: Path, host: str) -> str:
    """A host that clients can use: `host` if the certificate is valid for it, else localhost, else a name in it."""
    for candidate in (host, "localhost"):
        if _peer(cert, key, candidate) is not None:
            return candidate
    names = (_peer(cert, key, None) or {}).get("subjectAltName", ())
    return next((str(name) for kind, name in names if kind == "DNS" and "*" not in name), host)


def _peer(cert: Path, key: Path, host: str | None) -> dict[str, Any] | None:
    """The certificate as seen by a client that trusts it; None if it is not valid for `host` (None: any host)."""
    server_context, client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.check_hostname = host is not None
    client_context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        server_context.load_cert_chain(cert, key, password="")
        client_context.load_verify_locations(cert)
        server = server_context.wrap_bio(to_server, to_client, server_side=True)
        client = client_context.wrap_bio(to_client, to_server, server_hostname=host)
        for _ in range(_MAX_ROUNDS):
            for side in (client, server):
                with contextlib.suppress(ssl.SSLWantReadError):
                    side.do_handshake()
        return client.getpeercert()
    except (ssl.SSLError, OSError, ValueError):
        return None
