"""Calls as the pipeline knows them, made from gRPC's contexts."""

from __future__ import annotations

import time

import grpc

from server.pipeline.domain import Call

_LONGEST_S = 86_400.0


class Calls:
    """Makes a `Call` from a gRPC context: the earliest deadline counts; cancelled when the client goes.

    Args:
        default_timeout_s: of a call that brings no deadline.
    """

    def __init__(self, default_timeout_s: float) -> None:
        self._default_timeout_s = default_timeout_s

    def of(self, context: grpc.ServicerContext, timeout_s: float | None = None) -> Call:
        """The call; `timeout_s` is the request's own limit."""
        remaining = context.time_remaining()
        # Without a deadline gRPC answers with centuries.
        seconds = self._default_timeout_s if remaining is None or remaining > _LONGEST_S else remaining
        if timeout_s is not None:
            timeout_s = min(timeout_s, _LONGEST_S)  # a clock cannot wait for what a client may write
            seconds = timeout_s if remaining is None or remaining > _LONGEST_S else min(seconds, timeout_s)
        call = Call(time.monotonic() + seconds)
        if context.add_callback(call.cancel) is False:
            call.cancel()
        return call
