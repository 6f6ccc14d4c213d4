"""A call as the front has it, whichever adapter brings it: bytes come in, bytes or a status go out, or it is cancelled.

There are two adapters: `grpc_adapter` over grpc.server, and `aio_server` over grpc.aio for a grpcio that lacks the
private names which the first one uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import grpc

Metadata: TypeAlias = "Sequence[tuple[str, str | bytes]]"


class Call(Protocol):
    """A unary call.

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

    def context(self) -> grpc.ServicerContext:
        """For methods that are written against gRPC's own interface."""

    def set_trailing_metadata(self, metadata: Metadata, /) -> None:
        """What is sent with the status."""

    def respond(self, message: bytes, /) -> bool:
        """Send the response, by any thread; whether it was the first answer to the call."""

    def refuse(self, code: grpc.StatusCode, details: str, metadata: Metadata, /) -> bool:
        """Send a status, by any thread; whether it was the first answer to the call."""

    def abort_transport(self) -> None:
        """Cancel the call: its client does not read the answer."""


class Method(Protocol):
    """A unary method. An adapter calls all of this in one thread, that of gRPC's events, which must not be blocked."""

    def begin(self, call: Call, /) -> None:
        """A call has arrived; its request has not."""

    def receive(self, call: Call, message: bytes, /) -> None:
        """The request has arrived."""

    def missed(self, call: Call, /) -> None:
        """The request never comes: the client has ended its side or the call."""

    def over(self, call: Call, /) -> None:
        """The call has ended for gRPC, whatever was sent."""


class CancellableContext(grpc.ServicerContext):
    """A context that knows how its call ended.

    Attributes:
        is_cancelled: whether the client has cancelled the call or its deadline has passed.
    """

    is_cancelled: bool
