"""How a request reaches a server: gRPC, HTTP over raw keep-alive sockets, or the messages of gRPC streams.

All are driven by callbacks, so that the loops of `benchmarks.client` work with each. The HTTP client is of our own:
aiohttp and httpx cost several times what a fast server takes for a request, and the client must not be the limit.
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

from benchmarks.client import Answered, Send, unary
from benchmarks.machine import pinned
from benchmarks.summary import OK, UNAVAILABLE

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
            answered(self._call.code().value[0] or UNKNOWN, b"")

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
    """A keep-alive connection, its unread bytes and who waits."""

    __slots__ = ("read", "socket", "waiting")

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.read = b""
        self.waiting: deque[Answered] = deque()  # at most one

    def pop(self) -> Answered | None:
        """Who waits, for the first that asks."""
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
            return UNKNOWN, b""
        if len(body) < int(length[1]):
            return None
        self.read = b""
        return (OK if head[9:12] == b"200" else UNKNOWN), body


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
            connection = self._take()
        except OSError:
            self._failures.tell(answered)
            return
        connection.waiting.append(answered)
        try:
            connection.socket.sendall(request)
        except OSError:
            if waiting := connection.pop():
                self._failures.tell(waiting)

    def close(self) -> None:
        """Close every connection."""
        os.eventfd_write(self._stop, 1)
        self._reader.join()
        for connection in self._open.values():
            connection.socket.close()
        self._epoll.close()
        os.close(self._stop)

    def _take(self) -> _Connection:
        with suppress(IndexError):
            return self._idle.pop()
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
        outcome = connection.reply() if data else (UNAVAILABLE, b"")
        if outcome is None:
            return
        answered = connection.pop()
        if data:
            self._idle.append(connection)
        else:
            self._forget(connection)
        if answered:
            answered(*outcome)

    def _forget(self, connection: _Connection) -> None:
        self._epoll.unregister(connection.socket)
        del self._open[connection.socket.fileno()]
        with suppress(ValueError):
            self._idle.remove(connection)
        connection.socket.close()
