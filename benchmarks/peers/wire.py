"""How a request reaches a server: gRPC, HTTP over raw keep-alive sockets, or the messages of gRPC streams.

All are driven by callbacks, so that the loops of `benchmarks.client` work with each. The HTTP client is of our own:
aiohttp and httpx cost several times what a fast server takes for a request, and the client must not be the limit. A
server may close a kept connection at the moment at which a request is sent on it (uvicorn does after 5 idle seconds,
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
from typing import Any, Literal

import grpc

from swiftrec.benchmarks.client import Answered, Send, unary
from swiftrec.benchmarks.machine import pinned
from swiftrec.benchmarks.summary import OK, UNAVAILABLE

UNKNOWN = 2  # grpc.StatusCode
Wire = Literal["grpc", "http", "stream"]
_READ = 65_536
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@contextmanager
def connected(wire: Wire, port: int, method: str, core: int) -> Iterator[Send]:
    """Reach the server at a local port from one core; `method` is that of gRPC, HTTP requests come whole."""
    with pinned(core):
        yield from _connected(wire, port, method)


def _connected(wire: Wire, port: int, method: str) -> Iterator[Send]:
    failures = _Failures()
    try:
        if wire == "http":
            with closing(_HttpPool(port, failures)) as pool:
                yield pool.ask
            return
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield _Streams(channel, method, failures).ask if wire == "stream" else unary(channel, method)
    finally:
        failures.close()


class _Failures:
    """Tells of requests that could not be sent, from a thread: told at once, a loop would call itself without end."""

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[Answered | None] = queue.SimpleQueue()
        self.tell = self._waiting.put
        threading.Thread(target=self._loop, daemon=True).start()

    def close(self) -> None:
        self._waiting.put(None)

    def _loop(self) -> None:
        for answered in iter(self._waiting.get, None):
            answered(UNAVAILABLE, b"")


class _Stream:
    """One stream with one message under way."""

    def __init__(self, multi: Any, idle: deque[_Stream], failures: _Failures) -> None:  # noqa: ANN401 (as above)
        self._asked: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._idle, self._failures = idle, failures
        self._lock = threading.Lock()  # so that a message meets the stream's end exactly once
        self._answered: Answered | None = None
        self._is_over = False
        self._call = multi(iter(self._asked.get, None))
        threading.Thread(target=self._read, daemon=True).start()

    def ask(self, request: bytes, answered: Answered) -> None:
        with self._lock:
            if not self._is_over:
                self._answered = answered
                self._asked.put(request)
                return
        self._failures.tell(answered)

    def _read(self) -> None:
        with suppress(grpc.RpcError):
            for reply in self._call:
                answered = self._take()
                self._idle.append(self)
                if answered:
                    answered(OK, reply)
        with self._lock:
            self._is_over = True
        self._asked.put(None)
        if answered := self._take():
            answered(self._call.code().value[0] or UNKNOWN, (self._call.details() or "").encode())

    def _take(self) -> Answered | None:
        answered, self._answered = self._answered, None
        return answered


class _Streams:
    """As many streams as there are messages under way at once."""

    def __init__(self, channel: grpc.Channel, method: str, failures: _Failures) -> None:
        self._multi = channel.stream_stream(method, request_serializer=None, response_deserializer=None)
        self._idle: deque[_Stream] = deque()
        self._failures = failures

    def ask(self, request: bytes, answered: Answered) -> None:
        """Send on a stream that has nothing under way."""
        try:
            stream = self._idle.pop()
        except IndexError:
            stream = _Stream(self._multi, self._idle, self._failures)
        stream.ask(request, answered)


class _Connection:
    """A keep-alive connection, its unread bytes, who waits for what, and whether it has answered before."""

    __slots__ = ("is_proven", "read", "socket", "waiting")

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.read = b""
        self.waiting: deque[tuple[bytes, Answered]] = deque()  # at most one
        self.is_proven = False

    def pop(self) -> tuple[bytes, Answered] | None:
        """The request that is under way and who waits for it, for the first that asks."""
        with suppress(IndexError):
            return self.waiting.pop()
        return None

    def reply(self) -> tuple[int, bytes] | None:
        """Status and body, once they are whole."""
        head, found, body = self.read.partition(b"\r\n\r\n")
        if not found:
            return None
        length = _LENGTH.search(head)
        if not length:
            self.read = b""
            return UNKNOWN, b"a reply without a length"
        if len(body) < int(length[1]):
            return None
        self.read = b""
        return (OK, body) if head[9:12] == b"200" else (UNKNOWN, head.partition(b"\r\n")[0] + b" " + body)


class _HttpPool:
    """As many connections as there are requests under way at once; one thread reads them all."""

    def __init__(self, port: int, failures: _Failures) -> None:
        self._port, self._failures = port, failures
        self._idle: deque[_Connection] = deque()
        self._open: dict[int, _Connection] = {}
        self._epoll = select.epoll()
        self._stop = os.eventfd(0)
        self._epoll.register(self._stop, select.EPOLLIN)
        self._reader = threading.Thread(target=self._loop, daemon=True)
        self._reader.start()

    def ask(self, request: bytes, answered: Answered) -> None:
        """Send a whole HTTP request."""
        try:
            self._send(self._take(), request, answered)
        except OSError:
            self._failures.tell(answered)

    def close(self) -> None:
        """Close every connection."""
        os.eventfd_write(self._stop, 1)
        self._reader.join()
        for connection in self._open.values():
            connection.socket.close()
        self._epoll.close()
        os.close(self._stop)

    def _send(self, connection: _Connection, request: bytes, answered: Answered) -> None:
        connection.waiting.append((request, answered))
        try:
            connection.socket.sendall(request)
        except OSError:
            if waiting := connection.pop():
                self._lost(connection, *waiting)

    def _lost(self, connection: _Connection, request: bytes, answered: Answered) -> None:
        """A connection ended before a byte of an answer came; one that had answered before gives a second try."""
        if connection.is_proven:
            with suppress(OSError):
                self._send(self._connect(), request, answered)
                return
        self._failures.tell(answered)

    def _take(self) -> _Connection:
        with suppress(IndexError):
            return self._idle.pop()
        return self._connect()

    def _connect(self) -> _Connection:
        connection = _Connection(self._port)
        self._open[connection.socket.fileno()] = connection
        self._epoll.register(connection.socket, select.EPOLLIN)
        return connection

    def _loop(self) -> None:
        while True:
            for number, _ in self._epoll.poll():
                if number == self._stop:
                    return
                self._receive(self._open[number])

    def _receive(self, connection: _Connection) -> None:
        try:
            data = connection.socket.recv(_READ)
        except OSError:
            data = b""
        connection.read += data
        if not data:
            self._ended(connection)
        elif outcome := connection.reply():
            waiting = connection.pop()
            connection.is_proven = True
            self._idle.append(connection)
            if waiting:
                waiting[1](*outcome)

    def _ended(self, connection: _Connection) -> None:
        """The server has closed it."""
        self._forget(connection)
        if not (waiting := connection.pop()):
            return
        if connection.read:
            waiting[1](UNAVAILABLE, b"the connection ended within a reply")
        else:
            self._lost(connection, *waiting)

    def _forget(self, connection: _Connection) -> None:
        self._epoll.unregister(connection.socket)
        del self._open[connection.socket.fileno()]
        with suppress(ValueError):
            self._idle.remove(connection)
        connection.socket.close()
