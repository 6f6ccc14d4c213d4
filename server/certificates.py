"""For which host name a certificate counts, found by a TLS handshake in memory (`ssl.MemoryBIO`)."""

from __future__ import annotations

import contextlib
import ssl
from pathlib import Path
from typing import Any

_ROUNDS = 8  # of messages in a handshake, more than any version of TLS takes


def certified_host(cert: Path, key: Path, host: str) -> str:
    """The host that a client can use: `host` if the certificate names it, else localhost, else a name that it has."""
    for candidate in (host, "localhost"):
        if _peer(cert, key, candidate) is not None:
            return candidate
    names = (_peer(cert, key, None) or {}).get("subjectAltName", ())
    return next((str(name) for kind, name in names if kind == "DNS" and "*" not in name), host)


def _peer(cert: Path, key: Path, host: str | None) -> dict[str, Any] | None:
    """The certificate as a client that trusts the file sees it; None if it does not count for `host` (None: any)."""
    ours, theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    theirs.check_hostname = host is not None
    theirs.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        ours.load_cert_chain(cert, key, password="")
        theirs.load_verify_locations(cert)
        server = ours.wrap_bio(to_server, to_client, server_side=True)
        client = theirs.wrap_bio(to_client, to_server, server_hostname=host)
        for _ in range(_ROUNDS):
            for side in (client, server):
                with contextlib.suppress(ssl.SSLWantReadError):
                    side.do_handshake()
        return client.getpeercert()
    except (ssl.SSLError, OSError, ValueError):
        return None
