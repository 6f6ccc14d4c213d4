"""Calls as the pipeline knows them, made from gRPC's contexts."""

from __future__ import annotations

import time
from collections import deque

import grpc

from server.api.streams import WIDTH
from server.pipeline.call import Call

_LONGEST_S = 86_400.0  # without a deadline gRPC answers with centuries


class Caller:
    """Who called: the calls made for one gRPC context are cancelled when the client goes.

    A stream has `WIDTH` of them at once, no more, so that the last ones are all that can be under way.
    """

    __slots__ = ("_context", "_default_s", "_is_gone", "_last")

    def __init__(self, context: grpc.ServicerContext, default_s: float) -> None:
        self._context, self._default_s = context, default_s
        self._last: deque[Call] = deque(maxlen=WIDTH)
        self._is_gone = False
        if context.add_callback(self._leave) is False:
            self._is_gone = True

    def call(self, timeout_s: float | None = None) -> Call:
        """A call that ends at the earliest of the client's deadline and `timeout_s`; by default at the server's."""
        remaining = self._context.time_remaining()
        limits = [] if remaining is None or remaining > _LONGEST_S else [remaining]
        limits += [] if timeout_s is None else [min(timeout_s, _LONGEST_S)]  # a clock cannot wait for any number
        call = Call(time.monotonic() + min(limits, default=self._default_s))
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
        default_timeout_s: of a call that brings no deadline.
    """

    def __init__(self, default_timeout_s: float) -> None:
        self._default_timeout_s = default_timeout_s

    def of(self, context: grpc.ServicerContext) -> Caller:
        """The caller; ask once for a context, since gRPC keeps what it shall call at the end."""
        return Caller(context, self._default_timeout_s)
