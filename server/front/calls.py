"""Interfaces between the adapters to gRPC and the methods: a call, and a method that handles calls.

There are two adapters: `grpc_adapter` over grpc.server, and `aio_server` over grpc.aio for versions of grpcio without
the private names that the first one uses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeAlias

import grpc

Metadata: TypeAlias = "Sequence[tuple[str, str | bytes]]"


class Call(Protocol):
    """A call: unary or streaming in either direction.

    Attributes:
        started: when the call arrived, on the monotonic clock.
        method_state: data of its method.
    """

    started: float
    method_state: Any

    @property
    def metadata(self) -> Metadata:
        """The metadata that the client sent."""

    @property
    def time_left_s(self) -> float:
        """Seconds until the client's deadline; a huge number if it set none."""

    @property
    def is_cancelled(self) -> bool:
        """Whether the client has cancelled the call or its deadline has passed."""

    @property
    def has_half_closed(self) -> bool:
        """Whether the client will send no more messages."""

    @property
    def code(self) -> str:
        """Name of the status code that was set; "OK" if none was."""

    @property
    def messages(self) -> Iterator[bytes]:
        """The messages after the first one; blocks, and raises RpcError once the call has ended."""

    def context(self) -> grpc.ServicerContext:
        """A context for handlers that use gRPC's own interface."""

    def set_trailing_metadata(self, metadata: Metadata, /) -> None:
        """Set the metadata that is sent with the status."""

    def claim(self) -> bool:
        """Claim the right to end the call; True for the first caller only, which must then end it."""

    def send(self, response: bytes, /) -> bool:
        """Send a response of a stream and wait until the client receives it; False if it never will."""

    def respond(self, message: bytes | None, /) -> None:
        """End the call with OK, from any thread; `message` is the response of a unary call, None for a stream."""

    def abort(self, code: grpc.StatusCode, details: str, metadata: Metadata, /) -> None:
        """End the call with a status, from any thread."""

    def abort_transport(self) -> None:
        """Cancel the call because its client does not read the response."""


class Method(Protocol):
    """A method. Adapters call all but `abort` in the thread of gRPC's events, which must not block."""

    def on_call(self, call: Call, /) -> None:
        """A call has arrived; its first message has not."""

    def on_message(self, call: Call, message: bytes, /) -> None:
        """The first message has arrived."""

    def on_no_message(self, call: Call, /) -> None:
        """No message will arrive: the client has half-closed, cancelled or disconnected."""

    def on_end(self, call: Call, /) -> None:
        """The call has ended, as reported by gRPC."""

    def abort(self, call: Call, error: Exception, /) -> None:
        """End a call that has no response with the status of an error, from any thread."""
