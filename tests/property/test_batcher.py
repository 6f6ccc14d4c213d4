"""The batcher: every waiter is answered exactly once, and a job's fate is its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, wait
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.batching.batcher import Batcher
from server.batching.policy import Limits
from server.errors import DeadlineExceeded, ModelFailed, Overloaded, ShuttingDown

_LONG = 30.0  # seconds after which a test that hangs fails


class Clock:
    """A clock that stands still until it is moved."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Doubler:
    """Doubles numbers, refuses 13, remembers what it ran, and can be held at its gate."""

    def __init__(self) -> None:
        self.ran: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def run(self, jobs: Sequence[int]) -> list[int]:
        self.entered.set()
        assert self.gate.wait(_LONG)
        if 13 in jobs:
            raise ValueError("13")
        self.ran += jobs
        return [2 * job for job in jobs]


@contextmanager
def running(model: Doubler, clock: Clock, waiting: int = 4_096) -> Iterator[Batcher[int, int]]:
    batcher: Batcher[int, int] = Batcher("test", model, Limits(tokens=64, jobs=8, waiting=waiting), clock=clock)
    batcher.start()
    yield batcher
    model.gate.set()
    batcher.stop()


def hold(model: Doubler, batcher: Batcher[int, int]) -> None:
    """Keep the thread busy with a first job, so that what follows waits."""
    model.gate.clear()
    batcher.submit(0, 1, deadline=1e9)
    assert model.entered.wait(_LONG)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 20), st.sampled_from(["run", "cancel", "expire"])), max_size=40))
def test_every_job_meets_its_own_fate(jobs: list[tuple[int, str]]) -> None:
    model, clock = Doubler(), Clock()
    with running(model, clock) as batcher:
        hold(model, batcher)
        futures = [batcher.submit(n, n, deadline=5.0 if fate == "expire" else 1e9) for n, fate in jobs]
        for future, (_, fate) in zip(futures, jobs, strict=True):
            if fate == "cancel":
                assert future.cancel()
        clock.now = 10.0
        model.gate.set()
        assert not wait(futures, _LONG).not_done
    for future, (n, fate) in zip(futures, jobs, strict=True):
        if fate == "cancel":
            with pytest.raises(CancelledError):
                future.result()
        elif fate == "expire":
            assert isinstance(future.exception(), DeadlineExceeded)
        elif n == 13:
            assert isinstance(future.exception(), ModelFailed)
        else:
            assert future.result() == 2 * n
    wanted = sorted(n for n, fate in jobs if fate == "run" and n != 13)
    assert sorted(model.ran) == [0, *wanted]  # late and cancelled work never ran


def test_full_queue_refuses_when_its_bound_is_reached() -> None:
    model = Doubler()
    with running(model, Clock(), waiting=2) as batcher:
        hold(model, batcher)
        first = [batcher.submit(n, 1, deadline=1e9) for n in (1, 2)]
        with pytest.raises(Overloaded):
            batcher.submit(3, 1, deadline=1e9)
        model.gate.set()
        assert [future.result(_LONG) for future in first] == [2, 4]


def test_submit_refuses_when_the_deadline_has_passed() -> None:
    with running(Doubler(), Clock()) as batcher, pytest.raises(DeadlineExceeded):
        batcher.submit(1, 1, deadline=-1.0)


def test_stop_answers_what_waits_and_refuses_what_comes() -> None:
    model = Doubler()
    with running(model, Clock()) as batcher:
        hold(model, batcher)
        future = batcher.submit(1, 1, deadline=1e9)
    assert future.result(0) == 2
    with pytest.raises(ShuttingDown):
        batcher.submit(2, 1, deadline=1e9)


def test_dead_thread_answers_everyone_and_reports_itself() -> None:
    died = threading.Event()

    def observe(_jobs: int, _tokens: int) -> None:
        raise RuntimeError("a bug of ours")

    batcher: Batcher[int, int] = Batcher("test", Doubler(), Limits(), observe=observe, on_death=died.set)
    future = batcher.submit(1, 1, deadline=1e9)
    batcher.start()
    assert died.wait(_LONG)
    assert isinstance(future.exception(0), ShuttingDown)
