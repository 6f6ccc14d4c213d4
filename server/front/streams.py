"""Streams whose messages are answered side by side, in their order."""

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
from swiftrec.server.front.limits import Unsent
from swiftrec.server.front.waits import Exchange, Timers
from swiftrec.server.ticket import Reply

MAX_IN_FLIGHT = 32  # messages of one stream that are worked on at once
Send = Callable[[bytes, Callable[[Reply], None]], Exchange]
M = TypeVar("M")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a stream may be silent.

    Args:
        timers: end it.
        next_s: between two messages; 0 for no limit.
    """

    timers: Timers
    next_s: float

    def error(self) -> SwiftrecError:
        """Why a silent stream ends."""
        return DeadlineExceeded(
            f"no message came for {self.next_s:g} s after another (--max-stream-idle-s): end streams that are not used"
        )


class PunctualMessages(Iterator[M], Generic[M]):
    """The messages of a stream, each of which must come in time.

    Args:
        messages: blocks until the next one has arrived.
        patience: how long it may.
        on_silence: called when none came in time; ends the wait.
    """

    def __init__(self, messages: Iterator[M], patience: Patience, on_silence: Callable[[], object]) -> None:
        self._messages, self._patience, self._on_silence = messages, patience, on_silence

    def __next__(self) -> M:
        if not self._patience.next_s:
            return next(self._messages)
        due = time.monotonic() + self._patience.next_s
        silence = self._patience.timers.schedule(due, self._on_silence)
        try:
            return next(self._messages)
        finally:
            silence.cancel()


class _InFlight:
    """A message whose reply is waited for. A reply that waits for its turn counts as unsent."""

    def __init__(self, message: bytes, send: Send, unsent: Unsent) -> None:
        self._unsent, self._lock = unsent, threading.Lock()
        self._held_bytes, self._is_over = 0, False
        self._replies: queue.SimpleQueue[Reply] = queue.SimpleQueue()
        self._exchange = send(message, self._replied)

    def result(self) -> bytes:
        """Wait for the reply; the wait ends at the message's deadline, or with `cancel`.

        Raises:
            SwiftrecError: the stream ends with it.
        """
        reply = self._replies.get()
        self._release()
        if isinstance(reply, SwiftrecError):
            raise reply
        return reply

    def cancel(self) -> None:
        """Drop the result: the client has gone."""
        self._exchange.cancel()
        self._release()
        self._replies.put(Cancelled("the client has gone"))

    def _replied(self, reply: Reply) -> None:
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
    """Reads ahead in another thread: the one that answers cannot wait for the next message meanwhile."""

    def __init__(self, messages: Iterator[bytes], send: Send, width: int, patience: Patience, unsent: Unsent) -> None:
        self._messages = PunctualMessages(messages, patience, lambda: self._sent.put(patience.error()))
        self._send, self._unsent = send, unsent
        self._room = threading.Semaphore(width)
        self._is_over = False
        self._sent: queue.SimpleQueue[_InFlight | Exception | None] = queue.SimpleQueue()
        self._in_flight: deque[_InFlight] = deque()

    def next(self) -> _InFlight | None:
        """The oldest message that is worked on; None at the end of the stream.

        Raises:
            Exception: what reading raised.
        """
        sent = self._sent.get()
        if isinstance(sent, Exception):
            raise sent
        return sent

    def release(self) -> None:
        """The response to the oldest message was sent: there is room for another."""
        self._in_flight.popleft()
        self._room.release()

    def close(self) -> None:
        """Read no more, and cancel what was sent, by any thread. `read` ends when the stream does."""
        self._is_over = True
        self._room.release()
        for sent in list(self._in_flight):  # a copy, which no other thread can interrupt
            sent.cancel()

    def read(self) -> None:
        """Read and send every message."""
        try:
            while self._room.acquire() and not self._is_over:
                sent = _InFlight(next(self._messages), self._send, self._unsent)
                self._in_flight.append(sent)
                self._sent.put(sent)
                if self._is_over:  # `close` may have looked before
                    sent.cancel()
            self._sent.put(None)
        except StopIteration:
            self._sent.put(None)
        except Exception as error:  # noqa: BLE001 (raised where the stream is answered)
            self._sent.put(error)


def map_ordered(
    messages: Iterator[bytes],
    send: Send,
    threads: Executor,
    patience: Patience,
    on_end: Callable[[Callable[[], None]], bool],
    unsent: Unsent,
    width: int = MAX_IN_FLIGHT,
) -> Generator[bytes, None, None]:
    """The replies to messages, in order, while up to `width` of them are worked on.

    Args:
        messages: of the client; blocks until the next one has arrived.
        send: has a message answered.
        threads: read.
        patience: for silence between messages.
        on_end: takes what must be called when the client has gone; False if it has.
        unsent: counts the replies that wait for their turn.
        width: messages.

    Raises:
        DeadlineExceeded: the stream was silent for too long; what was sent before is answered first.
        SwiftrecError: a reply that ends the stream.
    """
    reader = _Reader(messages, send, width, patience, unsent)
    if not on_end(reader.close):
        raise Cancelled("the client has gone")
    threads.submit(reader.read)
    try:
        while (sent := reader.next()) is not None:
            yield sent.result()
            reader.release()
    finally:
        reader.close()
