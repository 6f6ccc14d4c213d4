"""Calls as the pipeline knows them, made from gRPC's contexts."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from server.pipeline.domain import Call

_LONGEST_S = 86_400.0


class Caller(Protocol):
    """The part of a gRPC context that a `Call` needs."""

    def time_remaining(self) -> float | None:
        """Seconds."""

    def add_callback(self, callback: Callable[[], None], /) -> bool:
        """Call when the client has gone or was answered; False if that is so already."""


class Streaming:
    """The context of a stream whose messages are answered one by one: gRPC would keep a callback for each of them."""

    def __init__(self, context: Caller) -> None:
        self._context, self._has_ended = context, False
        self._latest: Callable[[], None] = lambda: None
        self._has_ended = not context.add_callback(self._end)

    def time_remaining(self) -> float | None:
        """Of the stream."""
        return self._context.time_remaining()

    def add_callback(self, callback: Callable[[], None], /) -> bool:
        """In place of the last message's."""
        self._latest = callback
        return not self._has_ended

    def _end(self) -> None:
        self._has_ended = True
        self._latest()


class Calls:
    """Makes a `Call` from a gRPC context: the earliest deadline counts; cancelled when the client goes.

    Args:
        default_timeout_s: of a call that brings no deadline.
    """

    def __init__(self, default_timeout_s: float) -> None:
        self._default_timeout_s = default_timeout_s

    def of(self, context: Caller, timeout_s: float | None = None) -> Call:
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
