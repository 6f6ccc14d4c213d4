"""An open loop for more calls a second than gRPC's Python client can send: it writes HTTP/2 frames (RFC 9113).

That client needs 150 us a call, too much to offer ten times a fast server's capacity from one core; this one needs
about 15. It supports only unary calls in an open loop, and how each ended.
"""

from __future__ import annotations

import re
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, closing

import numpy as np
from numpy.typing import NDArray

from swiftrec.benchmarks.client import TIMEOUT_S, ResponseLog
from swiftrec.benchmarks.statistics import OK, RequestRows
from swiftrec.benchmarks.workload import PATHS

_CONNECTIONS = 64
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_TABLE_SIZE, _MAX_STREAMS, _INITIAL_WINDOW = 1, 3, 4  # settings
_FIRST_WINDOW, _LARGEST_WINDOW, _FRAME_BYTES = 65_535, 2**31 - 1, 16_384
_REFUSED_STREAM, _CANCEL = 7, 8  # why a stream was reset
_CANCELLED, _INTERNAL = 1, 13  # grpc.StatusCode
_STATUS = re.compile(rb"grpc-status(.)(\d+)", re.DOTALL)
_READ_BYTES = 1 << 20


def flood(target: str, log: ResponseLog, due: NDArray[np.float64], start: float) -> RequestRows:
    """Send each request when it is due (seconds from `start` on the monotonic clock), whether or not responses arrive.

    Raises:
        RuntimeError: the server closed a connection, or a response is overdue.
    """
    with ExitStack() as stack:
        peers = [stack.enter_context(closing(_Http2Connection(target, log))) for _ in range(_CONNECTIONS)]
        poll = select.poll()
        for peer in peers:
            poll.register(peer.socket, select.POLLIN)
        by_file = {peer.socket.fileno(): peer for peer in peers}
        moments, number = (start + due).tolist(), 0
        overdue = start + (due[-1] if len(due) else 0.0) + TIMEOUT_S
        while number < len(moments) or any(peer.is_waiting for peer in peers):
            now = time.monotonic()
            if now > overdue:
                raise RuntimeError(f"a request had no response within {TIMEOUT_S:g} s: look at the server's log")
            while number < len(moments) and moments[number] <= now:
                peers[number % _CONNECTIONS].queue(number, moments[number])
                number += 1
            for peer in peers:
                peer.send()
            wait_s = moments[number] - time.monotonic() if number < len(moments) else 0.1
            for file, _ in poll.poll(max(0.0, 1e3 * wait_s)):
                by_file[file].receive()
    return log.freeze()


class _Http2Connection:
    """One connection: calls that wait for a stream or for the server's window, and calls in flight."""

    def __init__(self, target: str, log: ResponseLog) -> None:
        host, _, port = target.rpartition(":")
        self.socket = socket.create_connection((host.strip("[]"), int(port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._log, self._head = log, _headers(PATHS[log.requests.method], target)
        self._waiting: deque[tuple[int, float]] = deque()
        self._open: dict[int, tuple[int, float, float, list[bytes]]] = {}
        self._stream, self._window, self._max_streams = 1, _FIRST_WINDOW, 0
        self._unread = b""
        settings = struct.pack(">HIHI", _TABLE_SIZE, 0, _INITIAL_WINDOW, _LARGEST_WINDOW)
        window = struct.pack(">I", _LARGEST_WINDOW - _FIRST_WINDOW)
        self._out = [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            frame(_SETTINGS, 0, 0, settings),
            frame(_WINDOW, 0, 0, window),
        ]

    @property
    def is_waiting(self) -> bool:
        return bool(self._waiting or self._open)

    def close(self) -> None:
        self.socket.close()

    def queue(self, number: int, intended: float) -> None:
        """Send request `number` as soon as a stream is free."""
        self._waiting.append((number, intended))

    def send(self) -> None:
        """Write the calls for which streams are free."""
        while self._waiting and len(self._open) < self._max_streams:
            number, intended = self._waiting[0]
            message = self._log.requests.payloads[number]
            if (size := len(message) + 5) > self._window:
                break
            self._waiting.popleft()
            self._window -= size
            self._out += [frame(_HEADERS, _END_HEADERS, self._stream, self._head), *_data(self._stream, message)]
            self._open[self._stream] = (number, intended, time.monotonic(), [])
            self._stream += 2
        if self._out:
            self.socket.sendall(b"".join(self._out))
            self._out = []

    def receive(self) -> None:
        """Read the frames that have arrived.

        Raises:
            RuntimeError: the server has closed the connection.
        """
        more = self.socket.recv(_READ_BYTES)
        if not more:
            raise RuntimeError("the server closed a connection: look at its log")
        read, offset = self._unread + more, 0
        while len(read) - offset >= 9:
            end = offset + 9 + int.from_bytes(read[offset : offset + 3])
            if end > len(read):
                break
            self._take(
                read[offset + 3],
                read[offset + 4],
                int.from_bytes(read[offset + 5 : offset + 9]),
                read[offset + 9 : end],
            )
            offset = end
        self._unread = read[offset:]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        """One frame."""
        if kind == _DATA:
            self._open[stream][3].append(payload)
        elif kind == _HEADERS and flags & _END_STREAM:
            status = _STATUS.search(payload)
            self._end(stream, int(status[2][: status[1][0]]) if status else _INTERNAL)
        elif kind == _RESET and stream in self._open:
            self._end_reset(stream, int.from_bytes(payload))
        elif kind == _WINDOW and not stream:
            self._window += int.from_bytes(payload)
        elif kind == _SETTINGS and not flags & _ACK:
            fields = dict(struct.iter_unpack(">HI", payload))
            self._max_streams = fields.get(_MAX_STREAMS, _LARGEST_WINDOW)
            self._out.append(frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            self._out.append(frame(_PING, _ACK, 0, payload))
        elif kind == _GOAWAY:
            raise RuntimeError(f"the server closed a connection: {payload[8:].decode(errors='replace')}")

    def _end_reset(self, stream: int, code: int) -> None:
        """A refused stream was not processed: the request is sent again (RFC 9113, section 8.7)."""
        if code == _REFUSED_STREAM:
            number, intended, *_ = self._open.pop(stream)
            self._waiting.append((number, intended))
        else:
            self._end(stream, _CANCELLED if code == _CANCEL else _INTERNAL)

    def _end(self, stream: int, code: int) -> None:
        number, intended, sent, parts = self._open.pop(stream)
        self._log.add(number, intended, sent, code, b"".join(parts)[5:] if code == OK else b"")


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """A frame of HTTP/2."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def _data(stream: int, message: bytes) -> Iterator[bytes]:
    """The message with its length, in frames of the size that every server accepts."""
    data = b"\0" + struct.pack(">I", len(message)) + message
    for start in range(0, len(data), _FRAME_BYTES):
        is_last = start + _FRAME_BYTES >= len(data)
        yield frame(_DATA, _END_STREAM if is_last else 0, stream, data[start : start + _FRAME_BYTES])


def _headers(path: str, authority: str) -> bytes:
    """POST, http, and the rest as literals without indexing (RFC 7541, section 6.2.2)."""
    fields = {":path": path, ":authority": authority, "content-type": "application/grpc", "te": "trailers"}
    fields["grpc-timeout"] = f"{TIMEOUT_S:.0f}S"
    literals = (text.encode() for pair in fields.items() for text in pair)
    coded = [bytes([len(text)]) + text for text in literals]
    return b"\x83\x86" + b"".join(b"\0" + name + value for name, value in zip(coded[::2], coded[1::2], strict=True))
