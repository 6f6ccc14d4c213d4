"""A client that writes the frames of HTTP/2 by hand (RFC 9113): gRPC's own would not misbehave."""

from __future__ import annotations

import select
import socket
import struct
from typing import Self

from tests.until import LONG

PING, ACK = b"\0\0\x08\6\0\0\0\0\0" + bytes(8), b"\0\0\x08\6\1\0\0\0\0" + bytes(8)
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _CONTINUATION = 0, 1, 3, 4, 6, 9
_END_STREAM, _END_HEADERS = 1, 4
_INITIAL_WINDOW = 4
_CANCEL, ENHANCE_YOUR_CALM = 8, 11
_FRAME_BYTES = 16_384  # that a server must take
_READ_BYTES = 65_536
_METHOD_AND_SCHEME = b"\x83\x86"  # POST and http, of HPACK's table
_LAST = b"the last"  # a ping by which the server has read everything
_REPEATED = b"\xbe"  # the entry that was added to HPACK's table last


class Peer:
    """One connection.

    Args:
        port: on this machine.
        window: bytes of each answer that the server may send before the client has read them.
    """

    def __init__(self, port: int, window: int = 65_535) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=LONG)
        settings = struct.pack(">HI", _INITIAL_WINDOW, window)
        self._socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(_SETTINGS, 0, 0, settings))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def call(self, stream: int, path: str, timeout: str = "") -> None:
        """Begin a call; `stream` is odd and larger than that of the call before. `timeout` as gRPC writes it: 50m."""
        headers = _call_headers(path, {"grpc-timeout": timeout} if timeout else {})
        self._socket.sendall(_frame(_HEADERS, _END_HEADERS, stream, headers))

    def send(self, stream: int, message: bytes, *, ends: bool = True) -> None:
        """Send a message of a call."""
        self._socket.sendall(_frame(_DATA, _END_STREAM if ends else 0, stream, _message(message)))

    def cancel(self, stream: int) -> None:
        """End a call."""
        self._socket.sendall(_frame(_RESET, 0, stream, struct.pack(">I", _CANCEL)))

    def ping(self) -> bytes:
        """Until the server has read everything that was sent; what came meanwhile."""
        return self.pings(1, 0.0)

    def pings(self, number: int, interval_s: float) -> bytes:
        """Send pings, each `interval_s` after the answer to the previous one; returns all bytes received."""
        seen = b""
        for _ in range(number):
            self._socket.settimeout(LONG)
            self._socket.sendall(PING)
            answers = seen.count(ACK)
            while seen.count(ACK) == answers:
                if not (more := self._socket.recv(65_536)):
                    return seen
                seen += more
            seen += self._silence(interval_s) if interval_s else b""
        return seen

    def flood(self, frames: bytes) -> bytes:
        """Send all frames and read what comes meanwhile, until the server has read them or closes the connection."""
        left, seen = [memoryview(frames), memoryview(_frame(_PING, 0, 0, _LAST))], b""
        self._socket.setblocking(False)
        try:
            while _LAST not in seen[-2 * _READ_BYTES :]:
                readable, writable, _ = select.select([self._socket], [self._socket] if left else [], [], LONG)
                assert readable or writable
                if writable:
                    left[0] = left[0][self._socket.send(left[0]) :]
                    left = left if left[0] else left[1:]
                if readable:
                    if not (more := self._socket.recv(_READ_BYTES)):
                        break
                    seen += more
        except ConnectionError:
            pass
        finally:
            self._socket.settimeout(LONG)
        return seen

    def _silence(self, seconds: float) -> bytes:
        self._socket.settimeout(seconds)
        seen = b""
        try:
            while more := self._socket.recv(65_536):
                seen += more
        except TimeoutError:
            pass
        return seen


def settings() -> bytes:
    """A frame of settings, without any."""
    return _frame(_SETTINGS, 0, 0, b"")


def refused_stream(stream: int) -> bytes:
    """What a server sends of a call that it does not take, because the client makes too many: ENHANCE_YOUR_CALM."""
    return _frame(_RESET, 0, stream, struct.pack(">I", ENHANCE_YOUR_CALM))


def reset_call(stream: int, path: str, message: bytes | None) -> bytes:
    """A call that is cancelled as soon as it was sent, before its request or after it."""
    sent = _frame(_HEADERS, _END_HEADERS, stream, _call_headers(path, {}))
    sent += b"" if message is None else _frame(_DATA, _END_STREAM, stream, _message(message))
    return sent + _frame(_RESET, 0, stream, struct.pack(">I", _CANCEL))


def endless_headers(stream: int, path: str, frames: int) -> bytes:
    """A call whose headers do not end: `frames` more frames follow, each full of headers."""
    filling = b"\0" + _string("x") + _string("y" * 100)
    full = filling * (_FRAME_BYTES // len(filling))
    begun = _frame(_HEADERS, 0, stream, _call_headers(path, {}))
    return begun + _frame(_CONTINUATION, 0, stream, full) * frames


def repeated_header(stream: int, path: str, value_bytes: int, times: int) -> bytes:
    """A call with a header that is put into HPACK's table and repeated by one byte each time."""
    added = b"\x40" + _string("x") + _string("y" * value_bytes)
    headers = _call_headers(path, {}) + added + _REPEATED * times
    return _frame(_HEADERS, _END_HEADERS, stream, headers)


def compressed_call(stream: int, path: str, compressed: bytes) -> bytes:
    """A call whose request is compressed by gzip."""
    data = _message(compressed, is_compressed=True)
    parts = [data[start : start + _FRAME_BYTES] for start in range(0, len(data), _FRAME_BYTES)]
    sent = _frame(_HEADERS, _END_HEADERS, stream, _call_headers(path, {"grpc-encoding": "gzip"}))
    return sent + b"".join(_frame(_DATA, 0, stream, part) for part in parts) + _frame(_DATA, _END_STREAM, stream, b"")


def _call_headers(path: str, more: dict[str, str]) -> bytes:
    fields = {":path": path, ":authority": "x", "content-type": "application/grpc", "te": "trailers"} | more
    return _METHOD_AND_SCHEME + b"".join(b"\0" + _string(name) + _string(fields[name]) for name in fields)


def _message(message: bytes, *, is_compressed: bool = False) -> bytes:
    return bytes([is_compressed]) + struct.pack(">I", len(message)) + message


def _string(text: str) -> bytes:
    return _length(len(text)) + text.encode()


def _length(number: int) -> bytes:
    """HPACK's integer with a prefix of 7 bits (RFC 7541 section 5.1)."""
    if number < 127:
        return bytes([number])
    digits, number = b"\x7f", number - 127
    while number >= 128:
        digits, number = digits + bytes([number % 128 + 128]), number // 128
    return digits + bytes([number])


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload
