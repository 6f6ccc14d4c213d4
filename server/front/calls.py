"""A call as the front has it, whichever adapter brings it: bytes come in, bytes or a status go out, or it is cancelled.

There are two adapters: `grpc_adapter` over grpc.server, and `aio_server` over grpc.aio for a grpcio that lacks the
private names which the first one uses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeAlias

import grpc

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
