"""The HTTP port for monitoring: `/metrics` for Prometheus, `/healthz` and `/readyz` for probes."""

from __future__ import annotations

import logging
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from queue import SimpleQueue
from socketserver import TCPServer
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

_log = logging.getLogger(__name__)
_ALLOWED_METHODS = ("GET", "HEAD")
_CONNECTION_TIMEOUT_S = 10.0  # from its accept to the end of the response
MAX_CONNECTIONS = 16  # each has a thread
_HANDOVER_TIMEOUT_S = 1.0  # for the thread of a closed connection to become free
_StartResponse = Callable[..., Any]
_Application = Callable[[dict[str, Any], _StartResponse], Iterable[bytes]]


class MonitoringServer:
    """Serves one port. If all threads are busy, a new connection closes the oldest one.

    Args:
        host: an address or a name.
        port: 0 takes a free one.
        registry: the metrics of `/metrics`.
        fault: returns why the process should be restarted (`/healthz`); empty if it need not be.
        obstacle: returns why the server takes no calls (`/readyz`); empty if it does.
        timeout_s: longest time of a connection.

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
        timeout_s: float = _CONNECTION_TIMEOUT_S,
    ) -> None:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        self._server = _Server(family, address, timeout_s)
        self._server.set_app(_application(make_wsgi_app(registry), {"/healthz": fault, "/readyz": obstacle}))
        self.port: int = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, name="monitoring", daemon=True)

    def start(self) -> None:
        """Start serving."""
        self._server.start_workers()
        self._thread.start()

    def stop(self) -> None:
        """Close the port and all connections."""
        self._server.shutdown()
        self._server.server_close()


def _application(metrics: _Application, probes: dict[str, Callable[[], str]]) -> _Application:
    def respond(environ: dict[str, Any], start: _StartResponse) -> Iterable[bytes]:
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        if path != "/metrics" and path not in probes:
            return _text(environ, start, "404 Not Found", "not found: there are /metrics, /healthz and /readyz")
        if method not in _ALLOWED_METHODS:
            return _text(environ, start, "405 Method Not Allowed", f"{path} takes {' and '.join(_ALLOWED_METHODS)}")
        if path == "/metrics":
            return _metrics_page(metrics, environ, start)
        reason = probes[path]()
        return _text(environ, start, "503 Service Unavailable" if reason else "200 OK", reason or "ok")

    return respond


def _metrics_page(metrics: _Application, environ: dict[str, Any], start: _StartResponse) -> Iterable[bytes]:
    heads: list[tuple[str, list[tuple[str, str]]]] = []
    body = b"".join(metrics(environ | {"REQUEST_METHOD": "GET"}, lambda *head: heads.append(head)))
    ((status, headers),) = heads
    start(status, [*headers, ("Content-Length", str(len(body)))])  # of the body that HEAD omits
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]


def _text(environ: dict[str, Any], start: _StartResponse, status: str, sentence: str) -> Iterable[bytes]:
    body = f"{sentence}\n".encode()
    headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
    start(status, headers + ([("Allow", ", ".join(_ALLOWED_METHODS))] if status.startswith("405") else []))
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, ANN401 (the standard library's name)
        """Log nothing: probes come every few seconds."""


class _Server(WSGIServer):
    """Accepts connections in one thread and serves them in `MAX_CONNECTIONS` others, which are started in advance."""

    request_queue_size = 128  # connections waiting to be accepted; with socketserver's 5, more clients wait a second

    def __init__(self, family: socket.AddressFamily, address: tuple[Any, ...], timeout_s: float) -> None:
        self.address_family = family
        self._timeout_s = timeout_s
        self._accepted = SimpleQueue[tuple[socket.socket, Any] | None]()
        self._free_threads = threading.Semaphore(MAX_CONNECTIONS)
        self._ends_s: dict[socket.socket, float] = {}  # of open connections, the oldest first
        self._lock = threading.Lock()  # guards `_ends_s`; while it is held, none of these connections is closed
        super().__init__(address[:2], _Handler)

    def start_workers(self) -> None:
        """Start the threads that serve connections."""
        for n in range(MAX_CONNECTIONS):
            threading.Thread(target=self._serve_connections, name=f"monitoring-{n}", daemon=True).start()

    def server_bind(self) -> None:
        """Bind without a reverse look-up of the host, which takes seconds if there is no name server."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 (the standard library's types)
        """Pass the connection to a free thread; if there is none, close the oldest connection first."""
        if not self._free_threads.acquire(blocking=False):
            self._close_oldest(1)
            if not self._free_threads.acquire(timeout=_HANDOVER_TIMEOUT_S):
                self.shutdown_request(request)
                return
        with self._lock:
            self._ends_s[request] = time.monotonic() + self._timeout_s
        self._accepted.put((request, client_address))

    def service_actions(self) -> None:
        """Close connections that have timed out; called twice a second and after each accept."""
        now = time.monotonic()
        with self._lock:
            expired = sum(end <= now for end in self._ends_s.values())
        self._close_oldest(expired)

    def server_close(self) -> None:
        """Close the port and every connection, and end the threads."""
        super().server_close()
        self._close_oldest(MAX_CONNECTIONS)
        for _ in range(MAX_CONNECTIONS):
            self._accepted.put(None)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401, ARG002
        """Log an error of one connection: the client has disconnected, or the connection was closed here."""
        _log.debug("monitoring request failed", exc_info=sys.exc_info()[1])

    def _close_oldest(self, number: int) -> None:
        """Close the oldest connections, which frees their threads."""
        with self._lock:
            for request in list(self._ends_s)[:number]:
                del self._ends_s[request]
                with suppress(OSError):  # the client has disconnected
                    request.shutdown(socket.SHUT_RDWR)

    def _serve_connections(self) -> None:
        while accepted := self._accepted.get():
            request, client_address = accepted
            try:
                self.finish_request(request, client_address)
            except Exception:  # noqa: BLE001 (affects only this connection)
                self.handle_error(request, client_address)
            finally:
                with self._lock:
                    self._ends_s.pop(request, None)
                self.shutdown_request(request)
                self._free_threads.release()
