"""One call for the front: its request id, and how it ended."""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import grpc
from google.rpc import code_pb2
from grpc_status import rpc_status

from server.errors import InternalError, Overloaded, SwiftrecError
from server.status import code_of, to_status
from server.telemetry.traces import Work

REQUEST_ID = "x-request-id"
_REQUEST_ID_CHARS = 64
_INTERNAL = "internal error; the server's log has the reason under request id "
# A new id is this process's random part and a number: a system call for each request would cost more.
_ID_PREFIX = secrets.token_hex(4)
_id_numbers = itertools.count()
_MAX_ID_NUMBER = 0xFFFFFFFF
_NETWORK_JITTER_S = 0.005  # by which the first bytes of a call may travel longer than its last
Metadata: TypeAlias = "Sequence[tuple[str, str | bytes]]"


@dataclass(frozen=True, slots=True)
class Refusal(grpc.Status):
    """The status of a call that was refused."""

    code: grpc.StatusCode
    details: str
    trailing_metadata: tuple[tuple[str, str | bytes], ...]


@dataclass(slots=True)
class CallRecord:
    """What is known of one call.

    Args:
        method: full name.
        started: on the monotonic clock.
        metadata: what the client sent beside the request.
        identity: the request id.
        code: name of the status that was sent, or that was tried.
        error: why the call was refused, if it was.
        exception: behind an internal error.
        works: what workers noted for the trace.
    """

    method: str
    started: float
    metadata: Metadata
    identity: str
    code: str = "OK"
    error: SwiftrecError | None = None
    exception: BaseException | None = None
    works: list[Work] = field(default_factory=list)

    def refuse(self, error: Exception) -> Refusal:
        """The status of an error, which becomes the call's."""
        if not isinstance(error, SwiftrecError):  # our bug: the log gets the traceback, the client a sentence
            self.exception, error = error, InternalError()
        if isinstance(error, InternalError):
            self.exception = self.exception or error.__cause__
            error = InternalError(_INTERNAL + self.identity)
        self.error, self.code = error, code_pb2.Code.Name(code_of(error))
        status = rpc_status.to_status(to_status(error))
        extra: list[tuple[str, str | bytes]] = [(REQUEST_ID, self.identity)]
        if isinstance(error, Overloaded):
            extra.append(("grpc-retry-pushback-ms", str(max(1, round(error.retry_after * 1e3)))))
        return Refusal(status.code, status.details, (*status.trailing_metadata, *extra))


def client_code(started: float, time_left_s: float | None) -> str:
    """The code that a client saw whose call gRPC cancelled: it cancels what has expired, too.

    A client whose own timer fires cancels before the deadline that it told, since it tells it rounded up, by at most a
    hundredth (grpc-timeout). A client that cancels that late by itself looks the same.
    """
    if time_left_s is None:
        return "CANCELLED"
    timeout_s = time.monotonic() - started + time_left_s
    return "DEADLINE_EXCEEDED" if time_left_s < _NETWORK_JITTER_S + timeout_s / 100 else "CANCELLED"


def request_id(metadata: Metadata) -> str:
    """The id that the client gave as `x-request-id` (its first 64 printable characters), or a new one."""
    value = metadata_value(metadata, REQUEST_ID)
    if value and value.isascii() and value.isprintable():
        return value[:_REQUEST_ID_CHARS]
    return f"{_ID_PREFIX}{next(_id_numbers) & _MAX_ID_NUMBER:08x}"


def metadata_value(metadata: Iterable[tuple[str, str | bytes]], name: str) -> str | None:
    """The first value of that name in a call's metadata, if it is a text."""
    for key, value in metadata:
        if key == name and isinstance(value, str):
            return value
    return None
