"""How a call ends: its request id, its status, its count and its line in the log, in one place for all calls."""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import grpc
from google.rpc import code_pb2
from grpc_status import rpc_status

from server.api.journal import Journal, as_seen, metadata_value
from server.api.status import code_of, to_status
from server.errors import Overloaded, RequestMissing, SwiftrecError
from server.telemetry.metrics import Metrics

REQUEST_ID = "x-request-id"
_REQUEST_ID_CHARS = 64
_INTERNAL = "internal error; the server's log has the reason under request id "
# A new id is this process's random part and a number: a system call for each request would cost more.
_ID_PREFIX = secrets.token_hex(4)
_id_numbers = itertools.count()
_MAX_ID_NUMBER = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class _AbortStatus(grpc.Status):
    """The status of a call that was refused."""

    code: grpc.StatusCode
    details: str
    trailing_metadata: tuple[tuple[str, str | bytes], ...]


class Outcomes:
    """Counts and logs calls that have ended, and refuses calls.

    Args:
        metrics: where calls are counted.
        journal: the log and the traces.
        names: full names of the methods whose successes are counted.
    """

    def __init__(self, metrics: Metrics, journal: Journal, names: Iterable[str]) -> None:
        self._metrics, self._journal = metrics, journal
        self._ok = {name: metrics.calls.labels(_short(name), "OK") for name in names}

    def succeed(self, name: str, context: grpc.ServicerContext, started: float, identity: str) -> None:
        """A unary call of one of `names` was answered."""
        self._ok[name].add(time.monotonic() - started)
        if self._journal.is_open:
            self._journal.ended(name, as_seen("OK", context, started), started, context, identity=identity)

    def end(self, name: str, code: str, context: grpc.ServicerContext, started: float, identity: str) -> None:
        """A call has ended with this code, unless the client saw it end otherwise."""
        code = as_seen(code, context, started)
        self._metrics.calls.labels(_short(name), code).add(time.monotonic() - started)
        self._journal.ended(name, code, started, context, identity=identity)

    def refuse(self, name: str, error: Exception, context: grpc.ServicerContext, started: float, identity: str) -> None:
        """End the call with the error's status; never returns."""
        bug = None
        if not isinstance(error, SwiftrecError):  # our bug: the log gets the traceback, the client a sentence
            bug, error = error, SwiftrecError(_INTERNAL + identity)
        status = to_status(error)
        code = as_seen(code_pb2.Code.Name(code_of(error)), context, started)
        self._metrics.calls.labels(_short(name), code).add(time.monotonic() - started)
        self._journal.ended(name, code, started, context, identity=identity, error=error, bug=bug)
        ending = rpc_status.to_status(status)
        extra: list[tuple[str, str | bytes]] = [(REQUEST_ID, identity)]
        if isinstance(error, Overloaded):
            extra.append(("grpc-retry-pushback-ms", str(max(1, round(error.retry_after * 1e3)))))
        context.abort_with_status(_AbortStatus(ending.code, ending.details, (*ending.trailing_metadata, *extra)))

    def without_request(self, name: str, context: grpc.ServicerContext, started: float) -> Callable[[str], None]:
        """A call ends before its request has come: give it its id; returns what records its code once that is known."""
        identity = identify(context)

        def record(code: str) -> None:
            error = None if code == "CANCELLED" else RequestMissing()
            self._metrics.calls.labels(_short(name), code).add(0.0)
            self._journal.ended(name, code, started, context, identity=identity, error=error)

        return record


def identify(context: grpc.ServicerContext) -> str:
    """The request id, which the client gets back in the trailing metadata, however the call ends."""
    identity = request_id(context)
    context.set_trailing_metadata(((REQUEST_ID, identity),))
    return identity


def request_id(context: grpc.ServicerContext) -> str:
    """The id that the client gave as `x-request-id` (its first 64 printable characters), or a new one."""
    value = metadata_value(context, REQUEST_ID)
    if value and value.isascii() and value.isprintable():
        return value[:_REQUEST_ID_CHARS]
    return f"{_ID_PREFIX}{next(_id_numbers) & _MAX_ID_NUMBER:08x}"


def _short(method: str) -> str:
    return method.rpartition("/")[2]
