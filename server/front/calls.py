"""A call as the front has it, whichever adapter brings it: bytes come in, bytes or a status go out, or it is cancelled.

There are two adapters: `grpc_adapter` over grpc.server, and `aio_server` over grpc.aio for a grpcio that lacks the
private names which the first one uses.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeAlias

import grpc

from server.errors import SwiftrecError

Metadata: TypeAlias = "Sequence[tuple[str, str | bytes]]"


class Call(Protocol):
    """A call of any of gRPC's four shapes.

    Attributes:
        started: when the call arrived, on the monotonic clock.
        note: data of its method.
    """

    started: float
    note: Any

    @property
    def metadata(self) -> Metadata:
        """What the client sent beside the request."""

    @property
    def time_left_s(self) -> float:
        """Seconds until the client's deadline; huge if it set none."""

    @property
    def is_cancelled(self) -> bool:
        """Whether the client has cancelled the call or its deadline has passed."""

    @property
    def has_half_closed(self) -> bool:
        """Whether the client has ended its side."""

    @property
    def code(self) -> str:
        """Name of the code that was set for the response; "OK" if none was."""

    @property
    def messages(self) -> Iterator[bytes]:
        """The messages after the first one, for a thread; RpcError is raised once the call has ended."""

    def context(self) -> grpc.ServicerContext:
        """For methods that are written against gRPC's own interface."""

    def set_trailing_metadata(self, metadata: Metadata, /) -> None:
        """What is sent with the status."""

    def claim(self) -> bool:
        """Whether the caller is the first to decide how the call ends: then, and only then, it may end it."""

    def send(self, response: bytes, /) -> bool:
        """Send a response of a stream and wait until the client takes it, in a thread; False if it never will."""

    def respond(self, message: bytes | None, /) -> None:
        """End the call well, by any thread: with the last response, or after the responses of a stream."""

    def refuse(self, code: grpc.StatusCode, details: str, metadata: Metadata, /) -> None:
        """End the call with a status, by any thread."""

    def abort_transport(self) -> None:
        """Cancel the call: its client does not read the answer."""


class Method(Protocol):
    """A method. An adapter calls all but `refuse` in one thread, that of gRPC's events, which must not be blocked."""

    def begin(self, call: Call, /) -> None:
        """A call has arrived; its request has not."""

    def receive(self, call: Call, message: bytes, /) -> None:
        """The request, or the first message of a stream, has arrived."""

    def missed(self, call: Call, /) -> None:
        """The request never comes: the client has ended its side or the call."""

    def over(self, call: Call, /) -> None:
        """The call has ended for gRPC, whatever was sent."""

    def refuse(self, call: Call, error: Exception, /) -> None:
        """End a call that has no answer with the status of an error, by any thread."""


class OpenCalls:
    """The calls that have not ended, so that a server that stops can wait for them, and refuse them at last."""

    def __init__(self) -> None:
        self._methods: dict[Call, Method] = {}  # adding and removing are atomic
        self._changed = threading.Condition()
        self._is_waiting = self._is_hurried = False

    def add(self, call: Call, method: Method) -> None:
        """A call has arrived."""
        self._methods[call] = method

    def remove(self, call: Call) -> None:
        """A call has ended."""
        self._methods.pop(call, None)
        if self._is_waiting and not self._methods:
            self._notify()

    def wait(self, timeout_s: float) -> None:
        """Wait until all calls have ended, the time is up, or `hurry` is called."""
        with self._changed:
            self._is_waiting = True
            self._changed.wait_for(lambda: self._is_hurried or not self._methods, timeout_s)

    def hurry(self) -> None:
        """End the wait, now or when it begins."""
        self._is_hurried = True
        self._notify()

    def refuse(self, error: SwiftrecError) -> None:
        """Refuse every call that has no answer."""
        for call, method in list(self._methods.items()):  # a copy, which no other thread can interrupt
            method.refuse(call, error)

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()
