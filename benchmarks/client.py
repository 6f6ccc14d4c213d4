"""The two loops of the load generator, over one channel with callbacks.

Requests come serialised and replies stay bytes: what the client costs is the channel. A grpc.aio client costs 4 %
less at 64 in flight (143 us a request against 149, median of 7 pairs), but its event loop wakes up to 1 ms late, which
an open loop must not; so both loops use futures with callbacks. The echo server is 9 % cheaper under the aio client,
whose requests come in larger bursts: compare CPU times only under the same client.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from typing import Any, Literal

import grpc
import numpy as np
from numpy.typing import NDArray

from swiftrec.benchmarks.access import PLAIN, Access, Metadata
from swiftrec.benchmarks.first import wait_ready
from swiftrec.benchmarks.replies import refusals
from swiftrec.benchmarks.summary import OK, UNAVAILABLE, Rows
from swiftrec.benchmarks.workload import Asked

TIMEOUT_S = 30.0
ANY_SIZE = ("grpc.max_receive_message_length", -1)  # gRPC's own limit is 4 MB
_MOST_ROWS = 32_000  # whose replies may be kept
Answered = Callable[[int, bytes], None]
"""Is given the number of the status code, and the reply, or after an error what the server said of it."""
Send = Callable[[bytes, Answered], None]
"""Sends a request and calls back once."""


@contextmanager
def connected(target: str, method: str, access: Access = PLAIN) -> Iterator[Send]:
    """A `Send` to `method` ("/package.Service/Method") of the server at `target`.

    Raises:
        RuntimeError: it does not answer.
    """
    with access.channel(target, [ANY_SIZE]) as channel:
        wait_ready(channel, target, access)
        yield unary(channel, method, access.metadata())


def unary(channel: grpc.Channel, method: str, metadata: Metadata = ()) -> Send:
    """A `Send` over a channel; every call carries the metadata."""
    call = channel.unary_unary(method, request_serializer=None, response_deserializer=None)

    def send(request: bytes, answered: Answered) -> None:
        future: Any = call.future(request, timeout=TIMEOUT_S, metadata=metadata)
        future.add_done_callback(lambda done: answered(*_outcome(done)))

    return send


def _outcome(done: Any) -> tuple[int, bytes]:  # noqa: ANN401 (gRPC's future has no public type)
    code = done.code().value[0]
    return code, done.result() if code == OK else (done.details() or "").encode()


@dataclass(slots=True)
class Log:
    """Rows as they come, from several threads: appending to a list is atomic. Some keep their reply."""

    asked: Asked
    reply_every: int = 1
    rows: list[tuple[float, float, float, int, int, bytes]] = field(default_factory=list)

    def add(self, number: int, intended: float, sent: float, code: int, reply: bytes) -> None:
        """Request `number` is answered."""
        is_kept = code == OK and number % self.reply_every == 0 and len(self.rows) < _MOST_ROWS
        self.rows.append((intended, sent, time.monotonic(), code, number, reply if is_kept else b""))

    def replies(
        self, start: float = -inf, end: float = inf, *, by: Literal["done", "intended"] = "done"
    ) -> list[bytes]:
        """Those that were kept, of the requests whose time `by` lies in [start, end)."""
        moments = ((done if by == "done" else intended, reply) for intended, _, done, _, _, reply in self.rows)
        return [reply for moment, reply in moments if reply and start <= moment < end]

    def freeze(self) -> Rows:
        """What was added so far; entries of a list that were refused do not count as entries."""
        intended, sent, done, code, number, kept = list(zip(*self.rows, strict=True)) or [()] * 6
        places = np.asarray(number, dtype=np.int64)
        refused = [len(refusals(reply)) if self.asked.method == "batch" else 0 for reply in kept]
        return Rows(
            intended=np.asarray(intended, dtype=np.float64),
            sent=np.asarray(sent, dtype=np.float64),
            done=np.asarray(done, dtype=np.float64),
            code=np.asarray(code, dtype=np.int32),
            tokens=self.asked.tokens[places],
            entries=self.asked.entries[places] - np.asarray(refused, dtype=np.int32),
        )


class ClosedLoop:
    """Keeps `in_flight` requests going from `start` to `stop`, until none is left to send or the server has gone.

    It has gone when as many answers in a row as are in flight are UNAVAILABLE: a single one may be a refusal.
    `cycle`: begin again with the first request instead.
    """

    def __init__(self, send: Send, log: Log, in_flight: int, *, cycle: bool = False) -> None:
        numbers = range(len(log.asked))
        self._send, self._log, self._in_flight = send, log, in_flight
        self._numbers: Iterator[int] = itertools.cycle(numbers) if cycle else iter(numbers)
        self._is_stopping = False
        self._lost = 0
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
        number = None if self._is_stopping else next(self._numbers, None)
        if number is None:
            self.ran_out |= not self._is_stopping
            self._idle.release()
            return
        sent = time.monotonic()
        self._send(self._log.asked.payloads[number], lambda code, reply: self._answered(number, sent, code, reply))

    def _answered(self, number: int, sent: float, code: int, reply: bytes) -> None:
        self._log.add(number, sent, sent, code, reply)
        self._lost = self._lost + 1 if code == UNAVAILABLE else 0
        self._is_stopping |= self._lost >= self._in_flight
        self._next()


Pattern = Literal["poisson", "constant"]


def arrivals(rate: float, seconds: float, seed: int, pattern: Pattern = "poisson") -> NDArray[np.float64]:
    """When requests are due, in seconds from the start, `rate` a second, up to `seconds`."""
    if pattern == "constant":
        return np.arange(0.0, seconds, 1.0 / rate)
    random = np.random.default_rng(seed)
    number = random.poisson(rate * seconds)
    return np.sort(random.uniform(0.0, seconds, number))


def open_loop(send: Send, log: Log, due: NDArray[np.float64], start: float) -> Rows:
    """Send each request when it is due (seconds from `start` on the monotonic clock), answered or not; give all rows.

    Raises:
        RuntimeError: an answer is overdue.
    """
    answered = threading.Semaphore(0)
    for number, moment in enumerate((start + due).tolist()):
        _send_at(send, number, moment, log, answered)
    _wait(answered, len(due))
    return log.freeze()


def _send_at(send: Send, number: int, intended: float, log: Log, answered: threading.Semaphore) -> None:
    time.sleep(max(0.0, intended - time.monotonic()))  # the schedule is the load
    sent = time.monotonic()

    def note(code: int, reply: bytes) -> None:
        log.add(number, intended, sent, code, reply)
        answered.release()

    send(log.asked.payloads[number], note)


def _wait(answered: threading.Semaphore, number: int) -> None:
    """Wait for a number of answers."""
    for _ in range(number):
        if not answered.acquire(timeout=TIMEOUT_S + 1):
            raise RuntimeError(f"a request had no answer within {TIMEOUT_S:g} s: look at the server's log")
