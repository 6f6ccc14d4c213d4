"""Streams whose messages are worked on side by side and answered in their order."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Generic, TypeVar

from server.pipeline.call import Call, finish

M = TypeVar("M")
R = TypeVar("R")
WIDTH = 32  # messages of one stream that are worked on at once


class _Pending(Generic[R]):
    """A coroutine that has run up to the call that it awaits."""

    def __init__(self, work: Coroutine[Call, None, R]) -> None:
        self._work = work
        self._call: Call | None = None
        self._result: list[R] = []
        try:
            self._call = work.send(None)
        except StopIteration as end:
            self._result.append(end.value)

    def result(self) -> R:
        """Wait for it."""
        if self._call is None:
            return self._result[0]
        self._call.settle()
        return finish(self._work)

    def close(self) -> None:
        """Nobody wants the result: let go of what the coroutine holds."""
        if self._call is not None:
            self._call.cancel()
        self._work.close()


class _Reader(Generic[M, R]):
    """A thread that reads ahead, since whoever answers cannot wait for the next message meanwhile."""

    def __init__(self, messages: Iterator[M], begin: Callable[[M], Coroutine[Call, None, R]], width: int) -> None:
        self._messages, self._begin = messages, begin
        self._room = threading.Semaphore(width)
        self._is_over = False
        self._begun: queue.SimpleQueue[_Pending[R] | Exception | None] = queue.SimpleQueue()
        threading.Thread(target=self._loop, name="read", daemon=True).start()

    def next(self) -> _Pending[R] | None:
        """The oldest message that is worked on; None at the end of the stream.

        Raises:
            Exception: what reading raised.
        """
        begun = self._begun.get()
        if isinstance(begun, Exception):
            raise begun
        return begun

    def answered(self) -> None:
        """Its answer has left: there is room for another."""
        self._room.release()

    def close(self) -> None:
        """Read no more, and let go of what was begun. The thread ends when the stream does."""
        self._is_over = True
        self._room.release()
        self._drop()

    def _drop(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                begun = self._begun.get_nowait()
                if isinstance(begun, _Pending):
                    begun.close()

    def _loop(self) -> None:
        try:
            while self._room.acquire() and not self._is_over:
                self._begun.put(_Pending(self._begin(next(self._messages))))
            self._begun.put(None)
        except StopIteration:
            self._begun.put(None)
        except Exception as error:  # noqa: BLE001 (raised where the stream is answered)
            self._begun.put(error)
        if self._is_over:  # it may have looked before the last one was put there
            self._drop()


def in_order(messages: Iterator[M], begin: Callable[[M], Coroutine[Call, None, R]], width: int = WIDTH) -> Iterator[R]:
    """The results of `begin` for each message, in order, while up to `width` of them are worked on."""
    reader = _Reader(messages, begin, width)
    try:
        while (pending := reader.next()) is not None:
            yield pending.result()
            reader.answered()
    finally:
        reader.close()
