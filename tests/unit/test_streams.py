"""Streams: side by side, in order, and nothing is left when a stream ends early."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator

import pytest

from server.api.streams import in_order
from server.pipeline.call import Call

_WAIT_S = 10.0


class Desk:
    """Work that is done when the test says so."""

    def __init__(self) -> None:
        self.begun: queue.Queue[tuple[int, Call]] = queue.Queue()
        self.let_go: list[int] = []

    async def begin(self, message: int) -> int:
        call = Call(time.monotonic() + 60)
        call.expect(1)
        self.begun.put((message, call))
        try:
            await call
        finally:
            self.let_go.append(message)
        return message * 10


def calls(desk: Desk, number: int) -> list[Call]:
    return [desk.begun.get(timeout=_WAIT_S)[1] for _ in range(number)]


def test_messages_are_worked_on_side_by_side_and_answered_in_order() -> None:
    desk = Desk()
    answers = in_order(iter(range(8)), desk.begin, width=4)
    found: list[int] = []
    reader = threading.Thread(target=lambda: found.extend(answers))
    reader.start()
    first = calls(desk, 4)
    assert desk.begun.empty()  # no more than the width
    for call in reversed(first):
        call.arrived()
    for call in calls(desk, 4):
        call.arrived()
    reader.join(_WAIT_S)
    assert found == [n * 10 for n in range(8)]


def test_what_reading_raises_comes_after_the_answers_to_what_was_read() -> None:
    async def begin(message: int) -> int:
        return message

    def messages() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("damaged")

    answers = in_order(messages(), begin)
    assert [next(answers), next(answers)] == [1, 2]
    with pytest.raises(ValueError, match="damaged"):
        next(answers)


def test_stream_that_is_closed_lets_go_of_what_was_begun() -> None:
    desk, over = Desk(), threading.Event()

    def messages() -> Iterator[int]:
        yield from range(3)
        over.wait(_WAIT_S)

    answers = in_order(messages(), desk.begin, width=8)
    waiting = threading.Thread(target=lambda: next(answers))
    waiting.start()
    made = calls(desk, 3)
    made[0].arrived()
    waiting.join(_WAIT_S)
    answers.close()  # type: ignore[attr-defined] # it is a generator
    assert sorted(desk.let_go) == [0, 1, 2]
    assert [call.is_cancelled for call in made] == [False, True, True]
    over.set()


def test_message_whose_deadline_passes_does_not_hold_up_the_next() -> None:
    async def begin(message: int) -> int:
        call = Call(time.monotonic() + (0.05 if message == 0 else 60))
        call.expect(1)
        if message:
            call.arrived()
        try:
            await call
        except Exception:  # noqa: BLE001 (as servicers do: an error is the answer)
            return -1
        return message

    assert list(in_order(iter(range(3)), begin)) == [-1, 1, 2]
