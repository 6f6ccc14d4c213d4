"""The thread that calls what is due, with a clock that a test turns."""

from __future__ import annotations

import threading
import time

import pytest

from swiftrec.server.front.waits import Timers
from tests.until import LONG


class Clock:
    """Seconds as the test says."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_actions_are_called_once_they_are_due_and_no_sooner() -> None:
    clock, called = Clock(), list[str]()
    timers = Timers(clock)
    timers.schedule(105.0, lambda: called.append("later"))
    timers.schedule(100.1, lambda: called.append("soon"))
    timers.fire()
    assert called == []
    clock.now = 100.1
    timers.fire()
    timers.fire()
    assert called == ["soon"]
    clock.now = 106.0
    timers.fire()
    assert called == ["soon", "later"]


def test_timer_that_is_cancelled_is_never_called_and_says_who_was_first() -> None:
    clock, called = Clock(), list[str]()
    timers = Timers(clock)
    one, mate = timers.schedule(100.1, lambda: called.append("one")), timers.schedule(100.1, lambda: called.append("2"))
    assert (one.cancel(), one.cancel(), one.is_pending) == (True, False, False)
    clock.now += 1
    timers.fire()
    assert called == ["2"]
    assert not mate.cancel()


def test_action_that_fails_harms_no_other() -> None:
    clock, called = Clock(), list[str]()
    timers = Timers(clock)
    timers.schedule(100.1, lambda: 1 / 0)
    timers.schedule(100.2, lambda: called.append("next"))
    clock.now += 1
    timers.fire()
    assert called == ["next"]


def test_cancelled_timers_leave_little_behind_however_far_they_are() -> None:
    clock, called = Clock(), list[str]()
    timers = Timers(clock)
    timers.schedule(3_100.0, lambda: called.append("last"))
    for n in range(50_000):
        timers.schedule(3_700.0 + n, lambda: None).cancel()
    assert len(timers._heap) < 2_000
    clock.now = 3_101.0
    timers.fire()
    assert called == ["last"]


def test_timers_one_after_the_other_do_not_wake_the_thread_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, woken = Clock(), list[float]()
    timers = Timers(clock)
    monkeypatch.setattr(timers._changed, "notify", lambda: woken.append(clock.now))
    for _ in range(1_000):
        timers.schedule(clock.now + 10.0, lambda: None).cancel()
        clock.now += 0.0005
    assert len(woken) <= 2  # at first, and after a sweep


def test_timer_that_comes_between_looking_and_waiting_is_not_slept_over() -> None:
    called = threading.Event()

    class Raced(Timers):
        is_first = True

        def fire(self) -> None:
            super().fire()
            if self.is_first:
                self.is_first = False
                self.schedule(time.monotonic() + 0.05, called.set)

    timers = Raced()
    timers.schedule(time.monotonic() + 3_600, lambda: None)
    timers.start()
    assert called.wait(LONG)
    timers.stop()


def test_timers_that_are_stopped_call_nothing_more() -> None:
    timers, called = Timers(), list[str]()
    timers.start()
    timers.schedule(time.monotonic() + 0.05, lambda: called.append("too late"))
    timers.stop()
    assert called == []


def test_thread_that_dies_is_told_of() -> None:
    dead: list[bool] = []

    class Broken(Timers):
        def fire(self) -> None:
            raise MemoryError

    timers = Broken(on_death=lambda: dead.append(True))
    with pytest.raises(MemoryError):
        timers._run()
    assert dead == [True]
