"""Access control: TLS, bearer tokens and limits of a connection. Everything that is not allowed is denied."""

from __future__ import annotations

import hashlib
import hmac
import logging
import ssl
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Generic, TypeAlias, TypeVar, cast

import grpc
from google.protobuf import descriptor_pool

from swiftrec.server.config import ServerSettings
from swiftrec.server.errors import ConfigError, Unauthenticated
from swiftrec.server.front.methods import Handler
from swiftrec.server.front.middleware import Middleware
from swiftrec.server.messages import read_bytes

# The only methods that need no token: probes of load balancers and orchestrators send none.
OPEN_METHODS = frozenset({"/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"})
DENIAL = "a valid token is required: send it as metadata, authorization: Bearer TOKEN"
MIN_TOKEN_CHARS = 16

_MAX_PENDING_CALLS = 65_536  # 64 connections with all their streams; each call takes a few KB
_LAST_RESPONSE_MS = 5_000  # to send a response that was made just before the deadline

_log = logging.getLogger(__name__)
Fingerprint: TypeAlias = tuple[tuple[int, ...] | None, ...]
T = TypeVar("T")


class ReloadingFiles(Generic[T]):
    """A value that is read again when one of its files changes; if that fails, the previous value stays in use.

    Args:
        paths: the files, which may be replaced in place or by rename.
        read: reads the value; raises ConfigError with a message that may be logged.

    Raises:
        ConfigError: the files cannot be read at construction.
    """

    def __init__(self, paths: Sequence[Path], read: Callable[[], T]) -> None:
        self._paths, self._read, self._lock = paths, read, threading.Lock()
        self._fingerprint = self._fingerprints()
        self._value = read()

    def get(self) -> T:
        """The current value."""
        self.reload()
        return self._value

    def reload(self) -> T | None:
        """Read the value again if a file has changed; the new value, or None if it has not changed."""
        with self._lock:
            fingerprint = self._fingerprints()
            if fingerprint == self._fingerprint:
                return None
            self._fingerprint = fingerprint
            try:
                self._value = self._read()
            except ConfigError as error:
                _log.error("%s; the previous content stays in use", error)
                return None
            _log.info("files reloaded", extra={"fields": {"files": [str(path) for path in self._paths]}})
            return self._value

    def _fingerprints(self) -> Fingerprint:
        return tuple(_fingerprint(path) for path in self._paths)


class Tokens:
    """The bearer tokens of a file, stored as digests.

    Args:
        path: one token a line; empty lines and lines that start with # are skipped.

    Raises:
        ConfigError: the file cannot be read, or has no token or an invalid one; the message never contains a token.
    """

    def __init__(self, path: Path) -> None:
        self._digests = ReloadingFiles([path], lambda: _read_tokens(path))

    def accept(self, metadata: Iterable[tuple[str, str | bytes]]) -> bool:
        """Whether the metadata has exactly one authorization, a valid bearer token; compares in constant time."""
        values = [value for key, value in metadata if key == "authorization"]
        digests = self._digests.get()
        if len(values) != 1:
            return False
        value = values[0] if isinstance(values[0], bytes) else values[0].encode(errors="replace")
        scheme, _, token = value.partition(b" ")
        digest = hashlib.sha256(token).digest()
        matches = [hmac.compare_digest(digest, known) for known in digests]
        return any(matches) and scheme.lower() == b"bearer"


class TokenAuthInterceptor(grpc.ServerInterceptor):  # type: ignore[type-arg] # the stub is generic, the class is not
    """Rejects calls without a valid token as UNAUTHENTICATED, whether the method exists or not.

    Args:
        tokens: the valid ones.
        services: full names of the services whose methods are counted by name; others count as "unknown".
        middleware: has the handlers for calls without a token.
    """

    def __init__(self, tokens: Tokens, services: Iterable[str], middleware: Middleware) -> None:
        self._tokens, self._middleware = tokens, middleware
        self._names = frozenset(methods_of(services))

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Handler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """The handler of the method, or one that rejects the call."""
        method = handler_call_details.method
        if self._tokens.accept(handler_call_details.invocation_metadata):
            return continuation(handler_call_details)
        if method in OPEN_METHODS:
            return self._middleware.open[method]
        name = method if method in self._names else "unknown"  # clients may send any name
        return self._middleware.aborting(name, Unauthenticated(DENIAL))


def methods_of(services: Iterable[str]) -> list[str]:
    """Full method names ("/package.Service/Method") of services whose stubs are loaded."""
    descriptors = [descriptor_pool.Default().FindServiceByName(name) for name in services]
    return [f"/{service.full_name}/{method.name}" for service in descriptors for method in service.methods]


def connection_limits(settings: ServerSettings) -> list[tuple[str, int]]:
    """Options of gRPC that limit a connection. gRPC ignores unknown names.

    The names are in channel_arg_names.h; that of GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS has no "recv".
    """
    return [
        ("grpc.max_receive_message_length", read_bytes(settings.max_message_bytes)),
        ("grpc.max_metadata_size", settings.max_metadata_bytes),  # if less than the next, gRPC rejects at random
        ("grpc.absolute_max_metadata_size", settings.max_metadata_bytes),
        ("grpc.max_concurrent_streams", settings.max_streams),
        ("grpc.max_allowed_incoming_connections", settings.max_connections),
        # Calls that Python has not accepted yet: beyond 1,000 gRPC drops some at random, and clients see CANCELLED.
        ("grpc.server.max_pending_requests", _MAX_PENDING_CALLS),
        ("grpc.server.max_pending_requests_hard_limit", _MAX_PENDING_CALLS),
        ("grpc.server_handshake_timeout_ms", 5_000),
        ("grpc.keepalive_time_ms", 60_000),  # a lost peer is detected after 80 s
        ("grpc.keepalive_timeout_ms", 20_000),
        # Otherwise idle connections are not checked, and clients that ping them more often than every two hours are
        # disconnected, whatever the next option says.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", settings.min_ping_interval_ms),
        ("grpc.http2.max_ping_strikes", 2),  # pings that are too frequent; the next one closes the connection
        *_lifetime_limits(settings),
    ]


def _lifetime_limits(settings: ServerSettings) -> list[tuple[str, int]]:
    limits = [
        ("grpc.max_connection_idle_ms", settings.max_connection_idle_s),
        ("grpc.max_connection_age_ms", settings.max_connection_age_s),  # gRPC varies it by 10 % itself
    ]
    options = [(name, max(1, round(limit_s * 1e3))) for name, limit_s in limits if limit_s]
    # Beyond its age a connection accepts no new calls, and ends when its calls have ended.
    return [*options, ("grpc.max_connection_age_grace_ms", settings.default_timeout_ms + _LAST_RESPONSE_MS)]


def server_credentials(settings: ServerSettings) -> grpc.ServerCredentials | None:
    """TLS credentials, reloaded for new connections if the files have changed; None without TLS.

    Raises:
        ConfigError: a file cannot be used.
    """
    cert, key, client_ca = settings.tls_cert, settings.tls_key, settings.tls_client_ca
    if cert is None or key is None:
        return None
    paths = [cert, key, client_ca] if client_ca else [cert, key]
    reloading = ReloadingFiles(paths, lambda: _read_certificates(cert, key, client_ca))
    # gRPC takes ownership of a configuration, so each is passed once; None (not in the stub) means no change.
    fetch = cast("Callable[[], grpc.ServerCertificateConfiguration]", reloading.reload)
    return grpc.dynamic_ssl_server_credentials(reloading.get(), fetch, client_ca is not None)


def _read_certificates(cert: Path, key: Path, client_ca: Path | None) -> grpc.ServerCertificateConfiguration:
    chain = _read_pem(cert, "--tls-cert", b"CERTIFICATE-----")
    secret = _read_pem(key, "--tls-key", b"PRIVATE KEY-----")
    authorities = _read_pem(client_ca, "--tls-client-ca", b"CERTIFICATE-----") if client_ca else None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(cert, key, password="")  # otherwise an encrypted key prompts on the terminal
    except (ssl.SSLError, OSError) as error:
        if getattr(error, "reason", "") == "KEY_VALUES_MISMATCH":
            raise ConfigError(f"--tls-key {key} is not the key of --tls-cert {cert}: give a matching pair") from None
        raise ConfigError(
            f"--tls-cert {cert} and --tls-key {key} cannot be used: give a PEM certificate and its unencrypted key"
        ) from None
    try:
        if client_ca:
            context.load_verify_locations(client_ca)
    except (ssl.SSLError, OSError):
        raise ConfigError(f"--tls-client-ca {client_ca} cannot be used: give PEM certificates") from None
    return grpc.ssl_server_certificate_configuration([(secret, chain)], authorities)


def _read_tokens(path: Path) -> list[bytes]:
    lines = _read(path, "--token-file").splitlines()
    numbered = [(n, line.strip()) for n, line in enumerate(lines, 1)]
    tokens = [(n, line) for n, line in numbered if line and not line.startswith(b"#")]
    if not tokens:
        raise ConfigError(f"--token-file {path} has no token: write one a line")
    for n, token in tokens:
        if len(token) < MIN_TOKEN_CHARS or not all(33 <= byte <= 126 for byte in token):
            raise ConfigError(
                f"--token-file {path} line {n}: a token is at least {MIN_TOKEN_CHARS} visible ASCII characters without "
                "spaces; make one with openssl rand -hex 32"
            )
    return [hashlib.sha256(token).digest() for _, token in tokens]


def _read_pem(path: Path, flag: str, mark: bytes) -> bytes:
    data = _read(path, flag)
    if mark not in data:
        raise ConfigError(f"{flag} {path} is not a PEM file with a {mark.rstrip(b'-').decode().lower()}: give one")
    return data


def _read(path: Path, flag: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        reason = f"{flag} {path} cannot be read ({error.strerror}): give a file that the server may read"
    raise ConfigError(reason)


def _fingerprint(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size
