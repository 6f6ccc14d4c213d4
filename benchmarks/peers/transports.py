"""Transports to a server: gRPC, and HTTP over raw keep-alive sockets.

Both are driven by callbacks, as the loops of `benchmarks.client` need it. The HTTP client is our own, since aiohttp and
httpx cost several times as much as a fast server needs for a request, and the client must not be the limit. A server
may close a kept connection at the moment at which a request is sent on it (uvicorn does after 5 idle seconds,
later if it is busy): as RFC 9112, section 9.3.1, has it, the request is sent again, once, on a new connection.
"""

from __future__ import annotations

import os
import queue
import re
import select
import socket
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import Literal

import grpc

from swiftrec.benchmarks.client import OnResponse, SendRequest, unary
from swiftrec.benchmarks.environment import pinned
from swiftrec.benchmarks.statistics import OK, UNAVAILABLE

UNKNOWN = 2  # grpc.StatusCode
Transport = Literal["grpc", "http"]
_READ = 65_536
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@contextmanager
def connected(transport: Transport, port: int, method: str, core: int) -> Iterator[SendRequest]:
    """Connect to the server at a local port, from one core; `method` is for gRPC, an HTTP request names its path."""
    with pinned(core):
        yield from _connected(transport, port, method)


def _connected(transport: Transport, port: int, method: str) -> Iterator[SendRequest]:
    failures = _Failures()
    try:
        if transport == "http":
            with closing(_HttpPool(port, failures)) as pool:
                yield pool.send
            return
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield unary(channel, method)
    finally:
        failures.close()


class _Failures:
    """Reports requests that could not be sent, from a thread: called back directly, a loop would recurse endlessly."""

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[OnResponse | None] = queue.SimpleQueue()
        self.report = self._waiting.put
        threading.Thread(target=self._loop, daemon=True).start()

    def close(self) -> None:
        self._waiting.put(None)

    def _loop(self) -> None:
        for on_response in iter(self._waiting.get, None):
            on_response(UNAVAILABLE, b"")


class _HttpConnection:
    """A keep-alive connection, its unread bytes, the request in flight, and whether it has responded before."""

    __slots__ = ("is_proven", "read", "socket", "waiting")

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.read = b""
        self.waiting: deque[tuple[bytes, OnResponse]] = deque()  # at most one
        self.is_proven = False

    def pop(self) -> tuple[bytes, OnResponse] | None:
        """Take the request in flight and its callback, if there still is one."""
        with suppress(IndexError):
            return self.waiting.pop()
        return None

    def response(self) -> tuple[int, bytes] | None:
        """Status and body, once they are complete."""
        head, separator, body = self.read.partition(b"\r\n\r\n")
        if not separator:
            return None
        length = _LENGTH.search(head)
        if not length:
            self.read = b""
            return UNKNOWN, b"a response without a length"
        if len(body) < int(length[1]):
            return None
        self.read = b""
        return (OK, body) if head[9:12] == b"200" else (UNKNOWN, head.partition(b"\r\n")[0] + b" " + body)


class _HttpPool:
    """One connection for each request in flight; a single thread reads them all."""

    def __init__(self, port: int, failures: _Failures) -> None:
        self._port, self._failures = port, failures
        self._idle: deque[_HttpConnection] = deque()
        self._open: dict[int, _HttpConnection] = {}
        self._epoll = select.epoll()
        self._stop = os.eventfd(0)
        self._epoll.register(self._stop, select.EPOLLIN)
        self._reader = threading.Thread(target=self._loop, daemon=True)
        self._reader.start()

    def send(self, request: bytes, on_response: OnResponse) -> None:
        """Send a complete HTTP request."""
        try:
            self._send(self._take(), request, on_response)
        except OSError:
            self._failures.report(on_response)

    def close(self) -> None:
        """Close every connection."""
        os.eventfd_write(self._stop, 1)
        self._reader.join()
        for connection in self._open.values():
            connection.socket.close()
        self._epoll.close()
        os.close(self._stop)

    def _send(self, connection: _HttpConnection, request: bytes, on_response: OnResponse) -> None:
        connection.waiting.append((request, on_response))
        try:
            connection.socket.sendall(request)
        except OSError:
            if waiting := connection.pop():
                self._lost(connection, *waiting)

    def _lost(self, connection: _HttpConnection, request: bytes, on_response: OnResponse) -> None:
        """A connection ended before the first byte of a response; one that had responded before allows a second try."""
        if connection.is_proven:
            with suppress(OSError):
                self._send(self._connect(), request, on_response)
                return
        self._failures.report(on_response)

    def _take(self) -> _HttpConnection:
        with suppress(IndexError):
            return self._idle.pop()
        return self._connect()

    def _connect(self) -> _HttpConnection:
        connection = _HttpConnection(self._port)
        self._open[connection.socket.fileno()] = connection
        self._epoll.register(connection.socket, select.EPOLLIN)
        return connection

    def _loop(self) -> None:
        while True:
            for number, _ in self._epoll.poll():
                if number == self._stop:
                    return
                self._receive(self._open[number])

    def _receive(self, connection: _HttpConnection) -> None:
        try:
            data = connection.socket.recv(_READ)
        except OSError:
            data = b""
        connection.read += data
        if not data:
            self._ended(connection)
        elif outcome := connection.response():
            waiting = connection.pop()
            connection.is_proven = True
            self._idle.append(connection)
            if waiting:
                waiting[1](*outcome)

    def _ended(self, connection: _HttpConnection) -> None:
        """The server has closed it."""
        self._forget(connection)
        if not (waiting := connection.pop()):
            return
        if connection.read:
            waiting[1](UNAVAILABLE, b"the connection ended within a response")
        else:
            self._lost(connection, *waiting)

    def _forget(self, connection: _HttpConnection) -> None:
        self._epoll.unregister(connection.socket)
        del self._open[connection.socket.fileno()]
        with suppress(ValueError):
            self._idle.remove(connection)
        connection.socket.close()
