"""The thread that ends late calls, with a clock that a test turns."""

from __future__ import annotations

import threading
import time

import pytest

from server.api.deadlines import Deadlines, Timer
from server.errors import DeadlineExceeded
from server.pipeline.call import Call


class Clock:
    """Seconds as the test says."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def waiting(clock: Clock, seconds: float) -> Call:
    call = Call(clock.now + seconds, clock)
    call.expect(1)
    return call


def test_calls_are_ended_once_their_deadline_has_passed_and_no_sooner() -> None:
    clock = Clock()
    deadlines = Deadlines(clock)
    soon, later = waiting(clock, 0.1), waiting(clock, 5.0)
    for call in (later, soon):
        deadlines.watch(call)
    assert deadlines.expire() == pytest.approx(0.1025, abs=0.0026)
    clock.now += 0.1
    deadlines.expire()
    assert not soon.is_cancelled
    clock.now += 0.0051
    assert deadlines.expire() == pytest.approx(4.9, abs=0.01)
    assert (soon.is_cancelled, later.is_cancelled) == (True, False)
    with pytest.raises(DeadlineExceeded):
        soon.check()


def test_call_that_is_forgotten_is_left_alone() -> None:
    clock = Clock()
    deadlines = Deadlines(clock)
    call, mate = waiting(clock, 0.1), waiting(clock, 0.1)
    for one in (call, mate):
        deadlines.watch(one)
    deadlines.forget(call)
    clock.now += 1
    deadlines.expire()
    assert (call.is_cancelled, mate.is_cancelled) == (False, True)


def test_what_is_over_leaves_nothing_behind_however_far_its_deadline_is() -> None:
    clock = Clock()
    deadlines = Deadlines(clock)
    last = waiting(clock, 3_000.0)
    deadlines.watch(last)
    for n in range(50_000):
        call = waiting(clock, 3_600.0 + n)
        deadlines.watch(call)
        deadlines.forget(call)
    assert len(deadlines._slots) == 1
    assert len(deadlines._order) < 2_000
    clock.now += 3_001.0
    deadlines.expire()
    assert last.is_cancelled


def test_calls_one_after_the_other_do_not_wake_the_thread_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, woken = Clock(), []
    deadlines = Deadlines(clock)
    monkeypatch.setattr(deadlines._changed, "notify", lambda: woken.append(clock.now))
    for _ in range(1_000):
        call = waiting(clock, 10.0)
        deadlines.watch(call)
        deadlines.forget(call)
        clock.now += 0.0005
    assert woken == [100.0]


def test_deadline_that_comes_between_looking_and_waiting_is_not_slept_over() -> None:
    ended = threading.Event()
    nearer = [Timer(time.monotonic() + 0.05, ended.set)]

    class Raced(Deadlines):
        def expire(self) -> float:
            seconds = super().expire()
            if nearer:
                self.watch(nearer.pop())
            return seconds

    deadlines = Raced()
    deadlines.watch(Timer(time.monotonic() + 3_600, lambda: None))
    deadlines.start()
    assert ended.wait(10)
    deadlines.stop()


def test_thread_that_dies_is_told_of() -> None:
    dead: list[bool] = []

    class Broken(Deadlines):
        def expire(self) -> float:
            raise MemoryError

    deadlines = Broken(on_death=lambda: dead.append(True))
    with pytest.raises(MemoryError):
        deadlines._loop()
    assert dead == [True]
