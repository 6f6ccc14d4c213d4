"""Handles the messages of a stream concurrently, and returns the replies in order."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Generic, TypeVar

from swiftrec.server.errors import Cancelled, DeadlineExceeded, SwiftrecError
from swiftrec.server.front.limits import UnsentResponses
from swiftrec.server.front.waits import Exchange, Timers
from swiftrec.server.ticket import Reply

MAX_IN_FLIGHT = 32  # messages of one stream that are handled at once
Send = Callable[[bytes, Callable[[Reply], None]], Exchange]
M = TypeVar("M")


@dataclass(frozen=True, slots=True)
class IdleTimeout:
    """The timeout of a stream between two messages.

    Args:
        timers: schedule it.
        seconds: 0 for no timeout.
    """

    timers: Timers
    seconds: float

    def error(self) -> SwiftrecError:
        """The error on timeout."""
        return DeadlineExceeded(
            f"no message arrived for {self.seconds:g} s (--max-stream-idle-s): close streams that are not used"
        )


class TimedMessages(Iterator[M], Generic[M]):
    """The messages of a stream, each of which must arrive in time.

    Args:
        messages: blocks until the next one has arrived.
        idle_timeout: between two messages.
        on_timeout: called if no message arrived in time; must end the wait.
    """

    def __init__(self, messages: Iterator[M], idle_timeout: IdleTimeout, on_timeout: Callable[[], object]) -> None:
        self._messages, self._idle_timeout, self._on_timeout = messages, idle_timeout, on_timeout

    def __next__(self) -> M:
        if not self._idle_timeout.seconds:
            return next(self._messages)
        due = time.monotonic() + self._idle_timeout.seconds
        timer = self._idle_timeout.timers.schedule(due, self._on_timeout)
        try:
            return next(self._messages)
        finally:
            timer.cancel()


class _InFlight:
    """A message that was sent to the worker. Its reply counts as unsent while earlier replies are missing."""

    def __init__(self, message: bytes, send: Send, unsent: UnsentResponses) -> None:
        self._unsent, self._lock = unsent, threading.Lock()
        self._held_bytes, self._is_over = 0, False
        self._replies: queue.SimpleQueue[Reply] = queue.SimpleQueue()
        self._exchange = send(message, self._on_reply)

    def result(self) -> bytes:
        """Wait for the reply, until the deadline of the message or `cancel`.

        Raises:
            SwiftrecError: the stream ends with this error.
        """
        reply = self._replies.get()
        self._release()
        if isinstance(reply, SwiftrecError):
            raise reply
        return reply

    def cancel(self) -> None:
        """Drop the reply: the client has disconnected."""
        self._exchange.cancel()
        self._release()
        self._replies.put(Cancelled("the client has disconnected"))

    def _on_reply(self, reply: Reply) -> None:
        with self._lock:
            if isinstance(reply, bytes) and not self._is_over:
                self._held_bytes = len(reply)
                self._unsent.hold(self._held_bytes)
        self._replies.put(reply)

    def _release(self) -> None:
        with self._lock:
            self._is_over = True
            self._unsent.release(self._held_bytes)
            self._held_bytes = 0


class _Reader:
    """Reads messages ahead in another thread, while earlier replies are awaited."""

    def __init__(
        self,
        messages: Iterator[bytes],
        send: Send,
        max_in_flight: int,
        idle_timeout: IdleTimeout,
        unsent: UnsentResponses,
    ) -> None:
        self._messages = TimedMessages(messages, idle_timeout, lambda: self._sent.put(idle_timeout.error()))
        self._send, self._unsent = send, unsent
        self._capacity = threading.Semaphore(max_in_flight)
        self._is_over = False
        self._sent: queue.SimpleQueue[_InFlight | Exception | None] = queue.SimpleQueue()
        self._in_flight: deque[_InFlight] = deque()

    def next(self) -> _InFlight | None:
        """The oldest message in flight; None at the end of the stream.

        Raises:
            Exception: raised by reading.
        """
        sent = self._sent.get()
        if isinstance(sent, Exception):
            raise sent
        return sent

    def release(self) -> None:
        """The reply to the oldest message was sent: allow another message."""
        self._in_flight.popleft()
        self._capacity.release()

    def close(self) -> None:
        """Stop reading and cancel the messages in flight, from any thread. `read` ends with the stream."""
        self._is_over = True
        self._capacity.release()
        for sent in list(self._in_flight):  # copying is atomic
            sent.cancel()

    def read(self) -> None:
        """Read all messages and send them to the worker."""
        try:
            while self._capacity.acquire() and not self._is_over:
                sent = _InFlight(next(self._messages), self._send, self._unsent)
                self._in_flight.append(sent)
                self._sent.put(sent)
                if self._is_over:  # `close` may have missed it
                    sent.cancel()
            self._sent.put(None)
        except StopIteration:
            self._sent.put(None)
        except Exception as error:  # noqa: BLE001 (raised by `next`)
            self._sent.put(error)


def map_ordered(
    messages: Iterator[bytes],
    send: Send,
    threads: Executor,
    idle_timeout: IdleTimeout,
    on_end: Callable[[Callable[[], None]], bool],
    unsent: UnsentResponses,
    max_in_flight: int = MAX_IN_FLIGHT,
) -> Generator[bytes, None, None]:
    """The replies to messages, in order, with up to `max_in_flight` messages handled at once.

    Args:
        messages: of the client; blocks until the next one has arrived.
        send: sends a message to the worker.
        threads: run the reader.
        idle_timeout: between two messages.
        on_end: registers a callback for the end of the call; False if the call has ended.
        unsent: counts the replies that wait for earlier ones.
        max_in_flight: number of messages.

    Raises:
        DeadlineExceeded: no message arrived in time; the replies to earlier messages come first.
        SwiftrecError: the stream ends with this error.
    """
    reader = _Reader(messages, send, max_in_flight, idle_timeout, unsent)
    if not on_end(reader.close):
        raise Cancelled("the client has disconnected")
    threads.submit(reader.read)
    try:
        while (sent := reader.next()) is not None:
            yield sent.result()
            reader.release()
    finally:
        reader.close()
