"""A client that writes the frames of HTTP/2 by hand (RFC 9113): gRPC's own would not misbehave."""

from __future__ import annotations

import socket
import struct
from typing import Self

from tests.until import LONG

PING, ACK = b"\0\0\x08\6\0\0\0\0\0" + bytes(8), b"\0\0\x08\6\1\0\0\0\0" + bytes(8)
_DATA, _HEADERS, _RESET, _SETTINGS = 0, 1, 3, 4
_END_STREAM, _END_HEADERS = 1, 4
_INITIAL_WINDOW = 4
_CANCEL = 8


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
        fields = {":path": path, ":authority": "x", "content-type": "application/grpc", "te": "trailers"}
        fields |= {"grpc-timeout": timeout} if timeout else {}
        headers = b"\x83\x86" + b"".join(b"\0" + _string(name) + _string(fields[name]) for name in fields)
        self._socket.sendall(_frame(_HEADERS, _END_HEADERS, stream, headers))

    def send(self, stream: int, message: bytes, *, ends: bool = True) -> None:
        """Send a message of a call."""
        data = b"\0" + struct.pack(">I", len(message)) + message
        self._socket.sendall(_frame(_DATA, _END_STREAM if ends else 0, stream, data))

    def cancel(self, stream: int) -> None:
        """End a call."""
        self._socket.sendall(_frame(_RESET, 0, stream, struct.pack(">I", _CANCEL)))

    def ping(self) -> bytes:
        """Until the server has read everything that was sent; what came meanwhile."""
        return self.pings(1, 0.0)

    def pings(self, number: int, apart_s: float) -> bytes:
        """Send pings, each `apart_s` after the answer of the one before; all that comes until the connection ends."""
        seen = b""
        for _ in range(number):
            self._socket.settimeout(LONG)
            self._socket.sendall(PING)
            answers = seen.count(ACK)
            while seen.count(ACK) == answers:
                if not (more := self._socket.recv(65_536)):
                    return seen
                seen += more
            seen += self._silence(apart_s) if apart_s else b""
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


def _string(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload
