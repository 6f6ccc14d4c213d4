"""The batcher: every job is answered exactly once or taken back, and its fate is its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.batching.admission import Refusal
from server.batching.batcher import Batcher
from server.batching.cost import CostModel
from server.batching.job import Job
from server.batching.policy import Limits, Reason
from server.errors import DeadlineExceeded, ModelFailed, Overloaded, ShuttingDown, SwiftrecError

_LONG = 30.0  # seconds after which a test that hangs fails


class Clock:
    """A clock that stands still until it is moved."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Answers:
    """Collects what each job is answered with."""

    def __init__(self) -> None:
        self.of: dict[int, list[int | SwiftrecError]] = {}
        self._changed = threading.Condition()

    def to(self, place: int) -> object:
        def done(result: int | SwiftrecError) -> None:
            with self._changed:
                self.of.setdefault(place, []).append(result)
                self._changed.notify_all()

        return done

    def wait(self, number: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.of) >= number, _LONG)


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


class Bench:
    """A batcher over a doubler, a manual clock, and what came out."""

    def __init__(self, **limits: float) -> None:
        self.model, self.clock, self.answers = Doubler(), Clock(), Answers()
        chosen = Limits(**{"tokens": 64, "jobs": 8, "budget_s": 1e9} | limits)  # type: ignore[arg-type]
        self.batcher: Batcher[int, int] = Batcher("test", self.model, chosen, clock=self.clock)

    def submit(self, number: int, place: int = -1, deadline: float = 1e9, tokens: int = 1, priority: int = 5) -> object:
        done = self.answers.to(place)
        return self.batcher.submit(number, tokens, deadline, done, priority)  # type: ignore[arg-type]

    def hold(self) -> None:
        """Keep the thread busy with a first job, so that what follows waits."""
        self.model.gate.clear()
        self.submit(0)
        assert self.model.entered.wait(_LONG)


@contextmanager
def bench(**limits: float) -> Iterator[Bench]:
    one = Bench(**limits)
    one.batcher.start()
    yield one
    one.model.gate.set()
    one.batcher.stop()
    load = one.batcher.load()
    assert (load.jobs, load.tokens) == (0, 0)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 20), st.sampled_from(["run", "cancel", "expire"])), max_size=40))
def test_every_job_meets_its_own_fate(jobs: list[tuple[int, str]]) -> None:
    with bench() as one:
        one.hold()
        queued = [
            one.submit(n, place, 5.0 if fate == "expire" else 1e9, tokens=n) for place, (n, fate) in enumerate(jobs)
        ]
        for job, (_, fate) in zip(queued, jobs, strict=True):
            if fate == "cancel":
                assert one.batcher.cancel(job)  # type: ignore[arg-type]
        one.clock.now = 10.0
        one.model.gate.set()
    for place, (n, fate) in enumerate(jobs):
        got = one.answers.of.get(place, [])
        if fate == "cancel":
            assert got == []
        elif fate == "expire":
            assert [type(answer) for answer in got] == [DeadlineExceeded]
        elif n == 13:
            assert [type(answer) for answer in got] == [ModelFailed]
        else:
            assert got == [2 * n]
    wanted = sorted(n for n, fate in jobs if fate == "run" and n != 13)
    assert sorted(one.model.ran) == [0, *wanted]  # late and cancelled work never ran


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 20), st.sampled_from([0.0, 1e9])), max_size=30))
def test_a_group_is_admitted_as_its_jobs_one_by_one(jobs: list[tuple[int, float]]) -> None:
    with bench(waiting_jobs=12, waiting_tokens=90) as group, bench(waiting_jobs=12, waiting_tokens=90) as single:
        refused: list[type | None] = []
        for one in (group, single):
            one.hold()
            one.clock.now = 1.0
        for place, (n, deadline) in enumerate(jobs):
            try:
                single.submit(n, place, deadline, tokens=n)
                refused.append(None)
            except SwiftrecError as why:
                refused.append(type(why))
        made: list[Job[int, int]] = [
            Job(n, n, 5, deadline, group.answers.to(place))  # type: ignore[arg-type]
            for place, (n, deadline) in enumerate(jobs)
        ]
        errors = group.batcher.submit_many(made)
        assert [error and type(error) for error in errors] == refused
        assert group.batcher.load() == single.batcher.load()
        for job, error in zip(made, errors, strict=True):
            if error:
                assert not group.batcher.cancel(job)  # it was never queued
        for one in (group, single):
            one.model.gate.set()
            one.batcher.stop()
        assert str(group.answers.of) == str(single.answers.of)


class Stepped:
    """Runs a batch at a time, each when it is told to."""

    def __init__(self) -> None:
        self.entered, self.go = threading.Semaphore(0), threading.Semaphore(0)
        self.running: list[int] = []

    def run(self, jobs: Sequence[int]) -> Sequence[int]:
        self.running = list(jobs)
        self.entered.release()
        assert self.go.acquire(timeout=_LONG)
        return jobs


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.tuples(st.integers(1, 60), st.integers(1, 9)), min_size=1, max_size=10), max_size=6))
def test_batch_that_starts_has_everything_that_came_before(rounds: list[list[tuple[int, int]]]) -> None:
    """What is prepared while a batch runs grows until the session is free: here padding never matters."""
    model, number = Stepped(), 0
    free = CostModel(batch_s=1.0, token_s=0.0)
    batcher: Batcher[int, int] = Batcher("test", model, Limits(tokens=10**6), cost=free, admit=lambda *_: None)
    batcher.start()
    batcher.submit(0, 1, 1e12, lambda _result: None)
    assert model.entered.acquire(timeout=_LONG)
    try:
        for arrivals in rounds:
            came = []
            for tokens, priority in arrivals:
                number += 1
                came.append(number)
                batcher.submit(number, tokens, 1e12, lambda _result: None, priority)
            model.go.release()
            assert model.entered.acquire(timeout=_LONG)
            assert sorted(model.running) == came
    finally:
        model.go.release(100)
        batcher.stop()


def test_full_queue_refuses_jobs_and_tokens_and_a_cancelled_job_makes_room() -> None:
    with bench(waiting_jobs=2, waiting_tokens=50) as one:
        one.hold()
        with pytest.raises(Overloaded):
            one.submit(1, tokens=51)
        first = one.submit(1, 1, tokens=20)
        one.submit(2, 2, tokens=20)
        with pytest.raises(Overloaded):
            one.submit(3, 3)
        assert one.batcher.cancel(first)  # type: ignore[arg-type]
        assert not one.batcher.cancel(first)  # type: ignore[arg-type]
        one.submit(4, 4)
    assert one.answers.of == {-1: [0], 2: [4], 4: [8]}


def test_submit_refuses_what_cannot_be_answered_in_time() -> None:
    with bench() as one:
        with pytest.raises(DeadlineExceeded):
            one.submit(1, deadline=0.0)
        one.hold()
        one.batcher.cost.seed([])
        for n in range(100):
            one.submit(n, n)
        wait_s = one.batcher.load().wait_s
        assert wait_s > 0
        with pytest.raises(Overloaded) as caught:
            one.submit(1, deadline=wait_s / 2)
        assert caught.value.retry_after >= wait_s * 0.9
        one.submit(1, 200, deadline=wait_s * 3)


def test_predicted_wait_beyond_the_budget_is_refused() -> None:
    with bench(budget_s=1e-3) as one:
        one.hold()
        with pytest.raises(Overloaded):
            list(map(one.submit, [1] * 10_000))
        assert 0.9e-3 < one.batcher.load().wait_s <= 1e-3


def test_more_urgent_jobs_run_first() -> None:
    with bench(jobs=1) as one:
        one.hold()
        for number, priority in ((1, 9), (2, 5), (3, 1)):
            one.submit(number, number, priority=priority)
    assert one.model.ran == [0, 3, 2, 1]


def test_extended_job_outlives_its_first_deadline() -> None:
    with bench(jobs=1) as one:
        one.hold()
        job = one.submit(1, 1, deadline=5.0)
        one.submit(2, 2)
        assert one.batcher.extend(job, 20.0, 1)  # type: ignore[arg-type]
        one.clock.now = 10.0
    assert one.model.ran == [0, 1, 2]


def test_stop_answers_what_waits_and_refuses_what_comes() -> None:
    with bench() as one:
        one.hold()
        one.submit(1, 1)
    assert one.answers.of[1] == [2]
    with pytest.raises(ShuttingDown):
        one.submit(2)


class Faulty:
    """A watcher with a bug that shows after some batches."""

    def __init__(self, after: int = 0) -> None:
        self._left = after

    def ran(self, waits_s: Sequence[float], tokens: int, padded: int, seconds: float, why: Reason) -> None:
        if not self._left:
            raise RuntimeError("a bug of ours")
        self._left -= 1

    def refused(self, why: Refusal) -> None:
        pass

    def dropped(self, why: str) -> None:
        pass


def test_dead_thread_answers_everyone_and_reports_itself() -> None:
    died, answers = threading.Event(), Answers()
    batcher: Batcher[int, int] = Batcher("test", Doubler(), Limits(), watcher=Faulty(), on_death=died.set)
    batcher.submit(1, 1, 1e9, answers.to(1))  # type: ignore[arg-type]
    batcher.start()
    assert died.wait(_LONG)
    assert isinstance(answers.of[1][0], ShuttingDown)
    assert len(answers.of[1]) == 1


def test_idle_session_tries_whatever_the_model_predicts() -> None:
    with bench() as one:
        assert one.batcher.load().wait_s == 0
        one.submit(1, 1, deadline=1e-9)
    assert one.answers.of[1] == [2]
