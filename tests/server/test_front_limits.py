"""Answers that clients do not read: their bytes and their time are bounded."""

from __future__ import annotations

import pytest

from swiftrec.server.errors import Overloaded
from swiftrec.server.front.limits import Unsent
from swiftrec.server.front.waits import Timers


class Clock:
    """Seconds as the test says."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_calls_are_refused_while_too_many_bytes_wait() -> None:
    clock = Clock()
    unsent = Unsent(1_000, 30.0, Timers(clock), clock)
    first, second = unsent.add(900, lambda: None), unsent.add(200, lambda: None)
    with pytest.raises(Overloaded, match="have not been read by their clients"):
        unsent.check()
    unsent.remove(first)
    unsent.check()
    unsent.remove(second)
    unsent.remove(second)  # once is enough
    assert unsent.bytes == 0


def test_answers_that_are_not_taken_in_time_are_cancelled_and_no_others() -> None:
    clock, cancelled = Clock(), list[str]()
    timers = Timers(clock)
    unsent = Unsent(1_000, 30.0, timers, clock)
    slow = unsent.add(1, lambda: cancelled.append("slow"))
    taken = unsent.add(1, lambda: cancelled.append("taken"))
    clock.now += 20.0
    unsent.add(1, lambda: cancelled.append("later"))
    unsent.remove(taken)
    timers.fire()
    assert cancelled == []
    clock.now += 10.0
    timers.fire()
    assert cancelled == ["slow"]
    unsent.remove(slow)
    clock.now += 20.0
    timers.fire()
    assert cancelled == ["slow", "later"]


def test_many_answers_have_one_timer_and_none_when_all_are_taken() -> None:
    clock = Clock()
    timers = Timers(clock)
    unsent = Unsent(1_000, 30.0, timers, clock)
    for _ in range(1_000):
        unsent.remove(unsent.add(1, lambda: None))
        assert len(timers._heap) == 1
    clock.now += 31.0
    timers.fire()
    assert timers._heap == []
