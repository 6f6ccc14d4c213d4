"""Calls as the pipeline knows them, made from gRPC's contexts."""

from __future__ import annotations

import time
from collections import deque

import grpc

from server.api.streams import WIDTH
from server.pipeline.call import Call


class Caller:
    """Who called: the calls made for one gRPC context are cancelled when the client goes.

    A stream has `WIDTH` of them at once, no more, so that the last ones are all that can be under way.
    """

    __slots__ = ("_context", "_is_gone", "_last", "_longest_s")

    def __init__(self, context: grpc.ServicerContext, longest_s: float) -> None:
        self._context, self._longest_s = context, longest_s
        self._last: deque[Call] = deque(maxlen=WIDTH)
        self._is_gone = False
        if context.add_callback(self._leave) is False:
            self._is_gone = True

    def call(self, timeout_s: float | None = None) -> Call:
        """A call that ends at the earliest of the client's deadline, `timeout_s`, and the server's default from now."""
        limits = (self._context.time_remaining(), timeout_s, self._longest_s)
        call = Call(time.monotonic() + min(limit for limit in limits if limit is not None))
        self._last.append(call)
        if self._is_gone:  # looked at after the call is kept, as `_leave` does it the other way round
            call.cancel()
        return call

    def _leave(self) -> None:
        self._is_gone = True
        for call in self._last.copy():
            call.cancel()


class Calls:
    """Makes callers from gRPC contexts.

    Args:
        default_timeout_s: of a call that brings no deadline, and the most that one may ask for.
    """

    def __init__(self, default_timeout_s: float) -> None:
        self._default_timeout_s = default_timeout_s

    def of(self, context: grpc.ServicerContext) -> Caller:
        """The caller; ask once for a context, since gRPC keeps what it shall call at the end."""
        return Caller(context, self._default_timeout_s)
