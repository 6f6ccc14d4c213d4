"""Answers that wait for others: bounded in number and time, never urgent, never lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.batching.batcher import Batcher
from server.batching.cost import CostModel
from server.batching.job import Job
from server.batching.outbox import LEFT_S, LONGEST_S, MOST, Outbox
from server.batching.policy import DEFAULT_PRIORITY, Limits
from server.errors import ModelFailed, ShuttingDown
from tests.property.test_batcher import Answers, Clock, Faulty, Stepped

_LONG = 30.0


def job(priority: int = DEFAULT_PRIORITY, deadline: float = 1e9) -> Job[int, int]:
    return Job(1, 1, priority, deadline, lambda _result: None)


@given(st.integers(1, 100), st.integers(0, 1_000))
def test_no_more_wait_than_half_of_the_queue_and_never_more_than_a_few(held: int, waiting: int) -> None:
    outbox: Outbox[int, int] = Outbox()
    assert outbox.has_room(waiting)
    outbox.put([(job(), n) for n in range(held)], now=1.0)
    assert outbox.has_room(waiting) == (held < MOST and 2 * held < waiting)


@given(st.floats(0, 2 * LONGEST_S), st.floats(0, 1), st.integers(1, 9))
def test_none_waits_long_or_to_its_deadline_or_if_it_is_urgent(ends: float, left: float, priority: int) -> None:
    outbox: Outbox[int, int] = Outbox()
    assert outbox.may_wait(1e9)
    outbox.put([(job(priority, deadline=1.0 + left), 1)], now=1.0)
    longest = 0.0 if priority < DEFAULT_PRIORITY else min(LONGEST_S, left - LEFT_S)
    if abs(ends - longest) > 1e-9:
        assert outbox.may_wait(1.0 + ends) == (ends < longest)


def test_the_first_answer_says_how_long_all_wait() -> None:
    outbox: Outbox[int, int] = Outbox()
    outbox.put([(job(), 1)], now=1.0)
    outbox.put([(job(), 2)], now=1.0 + 0.9 * LONGEST_S)
    assert not outbox.may_wait(1.0 + LONGEST_S)
    outbox.clear()
    assert len(outbox) == 0
    outbox.put([(job(), 3)], now=2.0)
    assert outbox.may_wait(2.0)


@contextmanager
def stepped(clock: Clock) -> Iterator[tuple[Batcher[int, int], Stepped, Answers]]:
    """A batcher that runs one job at a time, each when it is told to; the first one runs already."""
    model, answers = Stepped(), Answers()
    cost = CostModel(0.0, 1e-6)  # a job of 10,000 tokens takes 10 ms, and so says the model
    batcher: Batcher[int, int] = Batcher("test", model, Limits(jobs=1), cost=cost, clock=clock, admit=lambda *_: None)
    batcher.start()
    batcher.submit(-1, 1, 1e9, answers.to(-1))  # type: ignore[arg-type]
    assert model.entered.acquire(timeout=_LONG)
    yield batcher, model, answers
    model.go.release(1_000)
    batcher.stop()


def step(model: Stepped) -> None:
    """To the middle of the next batch."""
    model.go.release()
    assert model.entered.acquire(timeout=_LONG)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 60))
def test_answers_wait_while_more_than_twice_as_many_jobs_do_and_all_come(jobs: int) -> None:
    with stepped(Clock()) as (batcher, model, answers):
        for n in range(jobs):
            batcher.submit(n, 1, 1e9, answers.to(n))  # type: ignore[arg-type]
        for ran in range(1, jobs + 1):
            step(model)
            held, waited = ran - len(answers.of), jobs - ran + 1  # as it was when the batch was taken
            assert held == 0 or (held < MOST and 2 * held < waited)
            if waited > 2 * MOST:
                assert (held == 0) == (ran % MOST == 0)
    assert answers.of == {n: [n] for n in range(-1, jobs)}


@pytest.mark.parametrize("why", ["urgent", "deadline", "clock", "long", "joined by the urgent", "joined by the late"])
def test_answer_that_cannot_wait_is_handed_out_before_the_next_batch(why: str) -> None:
    clock = Clock()
    with stepped(clock) as (batcher, model, answers):
        deadline = clock() + LEFT_S / 2 if why == "deadline" else 1e9
        one = batcher.submit(0, 1, deadline, answers.to(0), 1 if why == "urgent" else 8)  # type: ignore[arg-type]
        for n in range(1, 40):
            tokens = 100_000 if why == "long" else 1
            batcher.submit(n, tokens, 1e9, answers.to(n), 9)  # type: ignore[arg-type]
        step(model)
        assert model.running == [0]
        assert answers.of == {}  # the first one waits
        if why == "clock":
            clock.now += LONGEST_S
        if why.startswith("joined"):  # while it runs
            is_late = why.endswith("late")
            assert batcher.extend(one, clock() + LEFT_S / 2 if is_late else 1e9, 9 if is_late else 1)
        step(model)
        assert answers.of == {-1: [-1], 0: [0]}


def test_answers_that_wait_are_handed_out_when_the_thread_dies() -> None:
    died, answers, model = threading.Event(), Answers(), Stepped()
    watcher = Faulty(after=3)
    batcher: Batcher[int, int] = Batcher("test", model, Limits(jobs=1), watcher=watcher, on_death=died.set)
    for n in range(40):
        batcher.submit(n, 1, 1e9, answers.to(n))  # type: ignore[arg-type]
    model.go.release(1_000)
    batcher.start()
    assert died.wait(_LONG)
    batcher.stop()
    assert [answers.of[n] for n in range(3)] == [[0], [1], [2]]
    assert all(isinstance(answers.of[n][0], ShuttingDown) for n in range(3, 40))
    assert all(len(one) == 1 for one in answers.of.values())


class _Fails:
    """A model that 13 makes fail, and that says what had been answered when it ran a job."""

    def __init__(self, answers: Answers) -> None:
        self.seen: list[tuple[int, int]] = []
        self._answers = answers

    def run(self, jobs: Sequence[int]) -> Sequence[int]:
        if 13 in jobs:
            raise ValueError("13")
        self.seen += [(one, len(self._answers.of)) for one in jobs]
        return jobs


def test_mates_of_a_failed_job_do_not_wait_for_each_other() -> None:
    answers = Answers()
    model = _Fails(answers)
    batcher: Batcher[int, int] = Batcher("test", model, Limits(jobs=20), admit=lambda *_: None)
    for n in range(60):
        batcher.submit(n, 1, 1e9, answers.to(n))  # type: ignore[arg-type]
    batcher.start()
    answers.wait(60)
    batcher.stop()
    assert [answered for _, answered in model.seen[:19]] == [*range(13), *range(14, 20)]
    assert isinstance(answers.of.pop(13)[0], ModelFailed)
    assert answers.of == {n: [n] for n in range(60) if n != 13}


def test_thread_that_dies_by_an_answer_tells_everybody_else_and_says_so() -> None:
    died, answers, model = threading.Event(), Answers(), Stepped()
    batcher: Batcher[int, int] = Batcher("test", model, Limits(jobs=1), on_death=died.set)

    def fails(_result: object) -> None:
        raise RuntimeError("a bug of ours")

    for n in range(40):
        batcher.submit(n, 1, 1e9, fails if n in (0, 1, 30) else answers.to(n))  # type: ignore[arg-type]
    model.go.release(1_000)
    batcher.start()
    assert died.wait(_LONG)
    assert set(answers.of) == {n for n in range(40) if n not in (0, 1, 30)}
    with pytest.raises(ShuttingDown):
        batcher.submit(1, 1, 1e9, answers.to(99))  # type: ignore[arg-type]
