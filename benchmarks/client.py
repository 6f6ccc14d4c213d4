"""The two loops of the load generator, over one channel with callbacks.

Requests come serialised and replies stay bytes: what the client costs is the channel. A grpc.aio client costs 4 %
less at 64 in flight (143 us a request against 149, median of 7 pairs), but its event loop wakes up to 1 ms late, which
an open loop must not; so both loops use futures with callbacks. The echo server is 9 % cheaper under the aio client,
whose requests come in larger bursts: compare CPU times only under the same client.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from benchmarks.summary import Rows

TIMEOUT_S = 30.0
_CONNECT_S = 10.0
Send = Callable[[bytes, Callable[[int], None]], None]
"""Sends a request; the callback is given the number of its status code."""


@contextmanager
def connected(target: str, method: str) -> Iterator[Send]:
    """A `Send` to `method` ("/package.Service/Method") of the server at `target`.

    Raises:
        RuntimeError: it does not answer.
    """
    with grpc.insecure_channel(target) as channel:
        _wait_ready(channel, target)
        call = channel.unary_unary(method, request_serializer=None, response_deserializer=None)

        def send(request: bytes, answered: Callable[[int], None]) -> None:
            future: Any = call.future(request, timeout=TIMEOUT_S)
            future.add_done_callback(lambda done: answered(done.code().value[0]))

        yield send


def _wait_ready(channel: grpc.Channel, target: str) -> None:
    try:
        grpc.channel_ready_future(channel).result(_CONNECT_S)
    except grpc.FutureTimeoutError:
        raise RuntimeError(f"nothing answers at {target}") from None


@dataclass(slots=True)
class _Log:
    """Rows as they come, from several threads: appending to a list is atomic."""

    rows: list[tuple[float, float, float, int, int]] = field(default_factory=list)

    def freeze(self) -> Rows:
        intended, sent, done, code, size = list(zip(*self.rows, strict=True)) or [()] * 5
        return Rows(
            intended=np.asarray(intended, dtype=np.float64),
            sent=np.asarray(sent, dtype=np.float64),
            done=np.asarray(done, dtype=np.float64),
            code=np.asarray(code, dtype=np.int32),
            size=np.asarray(size, dtype=np.int32),
        )


class ClosedLoop:
    """Keeps `in_flight` requests going from `start` to `stop`, or until none is left to send."""

    def __init__(self, send: Send, requests: Sequence[bytes], in_flight: int) -> None:
        self._send, self._requests, self._in_flight = send, iter(requests), in_flight
        self._log = _Log()
        self._is_stopping = False
        self._idle = threading.Semaphore(0)
        self.ran_out = False

    def start(self) -> None:
        """Send the first ones; each answer sends the next."""
        for _ in range(self._in_flight):
            self._next()

    def stop(self) -> None:
        """Send no more."""
        self._is_stopping = True

    def rows(self) -> Rows:
        """Wait until nothing is in flight, give all rows.

        Raises:
            RuntimeError: an answer is overdue.
        """
        _wait(self._idle, self._in_flight)
        return self._log.freeze()

    def _next(self) -> None:
        request = None if self._is_stopping else next(self._requests, None)
        if request is None:
            self.ran_out |= not self._is_stopping
            self._idle.release()
            return
        sent = time.monotonic()
        self._send(request, lambda code: self._answered(sent, code, len(request)))

    def _answered(self, sent: float, code: int, size: int) -> None:
        self._log.rows.append((sent, sent, time.monotonic(), code, size))
        self._next()


def arrivals(rate: float, seconds: float, seed: int) -> NDArray[np.float64]:
    """Poisson arrivals: seconds from the start, `rate` a second, up to `seconds`."""
    random = np.random.default_rng(seed)
    number = random.poisson(rate * seconds)
    return np.sort(random.uniform(0.0, seconds, number))


def open_loop(send: Send, requests: Sequence[bytes], due: NDArray[np.float64]) -> Rows:
    """Send each request when it is due (seconds from now), answered or not; give all rows.

    Raises:
        RuntimeError: an answer is overdue.
    """
    log, answered = _Log(), threading.Semaphore(0)
    start = time.monotonic()
    for request, moment in zip(requests, start + due, strict=True):
        _send_at(send, request, float(moment), log, answered)
    _wait(answered, len(due))
    return log.freeze()


def _send_at(send: Send, request: bytes, intended: float, log: _Log, answered: threading.Semaphore) -> None:
    time.sleep(max(0.0, intended - time.monotonic()))  # the schedule is the load
    sent = time.monotonic()

    def note(code: int) -> None:
        log.rows.append((intended, sent, time.monotonic(), code, len(request)))
        answered.release()

    send(request, note)


def _wait(answered: threading.Semaphore, number: int) -> None:
    """Wait for a number of answers."""
    for _ in range(number):
        if not answered.acquire(timeout=TIMEOUT_S + 1):
            raise RuntimeError("a request was never answered")
