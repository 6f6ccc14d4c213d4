"""The HTTP port for monitoring: `/metrics` for Prometheus, `/healthz` and `/readyz` for probes, 404 for the rest."""

from __future__ import annotations

import logging
import socket
import sys
import threading
from collections.abc import Callable, Iterable
from socketserver import TCPServer, ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

_log = logging.getLogger(__name__)
_ALLOWED_METHODS = ("GET", "HEAD")
_REQUEST_TIMEOUT_S = 10.0  # without a byte; each connection has a thread
_StartResponse = Callable[..., Any]
_Application = Callable[[dict[str, Any], _StartResponse], Iterable[bytes]]


class MonitoringServer:
    """Answers on one port from threads of its own.

    Args:
        host: an address or a name.
        port: 0 takes a free one.
        registry: what `/metrics` shows.
        fault: why `/healthz` says no: the process should be restarted; empty while it need not be.
        obstacle: why `/readyz` says no: the server takes no calls; empty while it does.

    Raises:
        OSError: the address cannot be used.
    """

    def __init__(
        self,
        host: str,
        port: int,
        registry: CollectorRegistry,
        fault: Callable[[], str],
        obstacle: Callable[[], str],
    ) -> None:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        self._server = _Server(family, address)
        self._server.set_app(_application(make_wsgi_app(registry), {"/healthz": fault, "/readyz": obstacle}))
        self.port: int = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, name="monitoring", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Free the port."""
        self._server.shutdown()
        self._server.server_close()


def _application(metrics: _Application, probes: dict[str, Callable[[], str]]) -> _Application:
    def answer(environ: dict[str, Any], start: _StartResponse) -> Iterable[bytes]:
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        if path != "/metrics" and path not in probes:
            return _text(environ, start, "404 Not Found", "not found: there are /metrics, /healthz and /readyz")
        if method not in _ALLOWED_METHODS:
            return _text(environ, start, "405 Method Not Allowed", f"{path} takes {' and '.join(_ALLOWED_METHODS)}")
        if path == "/metrics":
            return _metrics_page(metrics, environ, start)
        reason = probes[path]()
        return _text(environ, start, "503 Service Unavailable" if reason else "200 OK", reason or "ok")

    return answer


def _metrics_page(metrics: _Application, environ: dict[str, Any], start: _StartResponse) -> Iterable[bytes]:
    given: list[tuple[str, list[tuple[str, str]]]] = []
    body = b"".join(metrics(environ | {"REQUEST_METHOD": "GET"}, lambda *head: given.append(head)))
    ((status, headers),) = given
    start(status, [*headers, ("Content-Length", str(len(body)))])  # the body's, where HEAD leaves it out
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]


def _text(environ: dict[str, Any], start: _StartResponse, status: str, sentence: str) -> Iterable[bytes]:
    body = f"{sentence}\n".encode()
    headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
    start(status, headers + ([("Allow", ", ".join(_ALLOWED_METHODS))] if status.startswith("405") else []))
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]


class _Handler(WSGIRequestHandler):
    timeout = _REQUEST_TIMEOUT_S

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, ANN401 (the standard library's name)
        """Log nothing: probes come every few seconds."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 128  # connections that wait to be accepted; beyond socketserver's 5, clients wait a second

    def __init__(self, family: socket.AddressFamily, address: tuple[Any, ...]) -> None:
        self.address_family = family
        super().__init__(address[:2], _Handler)

    def server_bind(self) -> None:
        """Bind without looking up the host's name, which takes seconds where there is no name server."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401, ARG002
        """A client that left or was silent concerns nobody else."""
        _log.debug("monitoring request failed", exc_info=sys.exc_info()[1])
