"""A model behind the pipeline: an error stays with its row, sessions work side by side, and run times are learned."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
from numpy.typing import NDArray

from swiftrec.server.batching.scheduler import Limits
from swiftrec.server.errors import ModelFailed
from swiftrec.server.pipeline.model_runner import ModelRunner
from tests.until import LONG

Vector = NDArray[np.float32]
BAD, SHORT, NAN, INFINITE = -1, -2, -3, -4


class Clock:
    """A clock that moves by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Doubler:
    """Doubles numbers; each row takes a second. The numbers below 0 are what can go wrong."""

    def __init__(self, clock: Clock) -> None:
        self.batches: list[list[int]] = []
        self._clock = clock

    def run(self, rows: Sequence[int]) -> list[Vector]:
        self.batches.append(list(rows))
        self._clock.now += len(rows)
        if BAD in rows:
            raise ValueError("cannot run it")
        answers = {NAN: np.nan, INFINITE: np.inf}
        vectors = [np.array([1.0, answers.get(row, 2.0 * row)], dtype=np.float32) for row in rows]
        return vectors[1:] if SHORT in rows else vectors


class Counts:
    """A recorder."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, int, int, float]] = []

    def ran(self, rows: int, tokens: int, padded: int, seconds: float) -> None:
        self.batches.append((rows, tokens, padded, seconds))


def runner(limits: Limits | None = None) -> tuple[ModelRunner[int], Doubler, Counts]:
    clock, counts = Clock(), Counts()
    model = Doubler(clock)
    return ModelRunner(model, limits or Limits(), clock=clock, recorder=counts), model, counts


def values(results: Sequence[Vector | ModelFailed]) -> list[float | None]:
    """The second number of each vector; None for an error."""
    return [None if isinstance(result, ModelFailed) else float(result[1]) for result in results]


def test_rows_come_back_in_their_order_whatever_the_batches_are() -> None:
    runs, model, _ = runner(Limits(tokens=32))
    rows, lengths = [1, 2, 3, 4, 5], [30, 2, 20, 3, 30]
    results, seconds = runs.run(rows, lengths)
    assert values(results) == [2, 4, 6, 8, 10]
    assert sorted(map(sorted, model.batches)) == [[1], [2, 4], [3], [5]]
    assert seconds == [1, 2, 1, 2, 1]


@pytest.mark.parametrize("bad", [BAD, SHORT])
def test_batch_that_fails_is_run_row_by_row_so_that_only_the_guilty_row_fails(
    bad: int, caplog: pytest.LogCaptureFixture
) -> None:
    runs, model, counts = runner()
    results, _ = runs.run([1, bad, 3], [4, 4, 4])
    assert values(results) == [2, None, 6]
    assert model.batches == [[1, bad, 3], [1], [bad], [3]]
    assert counts.batches == [(1, 4, 4, 1.0)] * 2  # what failed is no batch
    (record,) = caplog.records
    assert (record.getMessage(), record.exc_info is not None) == ("model failed on a row", True)


def test_every_row_may_fail() -> None:
    runs, _, counts = runner()
    assert values(runs.run([BAD] * 3, [4] * 3)[0]) == [None] * 3
    assert counts.batches == []


@pytest.mark.parametrize("bad", [NAN, INFINITE])
def test_row_of_numbers_that_are_not_finite_is_an_error_and_its_mates_are_answered(bad: int) -> None:
    runs, model, _ = runner()
    results, _ = runs.run([1, bad, 3], [4, 4, 4])
    assert values(results) == [2, None, 6]
    assert "not finite" in str(results[1])
    assert len(model.batches) == 1  # nothing runs again


def test_batches_are_recorded_with_their_padding_and_their_time() -> None:
    runs, _, counts = runner()
    runs.run([1, 2, 3], [4, 6, 5])
    assert counts.batches == [(3, 15, 18, 3.0)]


def test_run_times_are_learned() -> None:
    runs, _, _ = runner(Limits(jobs=8))
    for size in [*range(1, 9)] * 16:
        runs.run([1] * size, [10] * size)
    assert runs.cost(4, 10) == pytest.approx(4.0, rel=0.05)
    assert runs.cost(8, 10) == pytest.approx(8.0, rel=0.05)


class Meeting:
    """A model each run of which waits for another one at the same time."""

    def __init__(self, parties: int) -> None:
        self.barrier = threading.Barrier(parties)
        self.threads: set[int] = set()

    def run(self, rows: Sequence[int]) -> list[Vector]:
        self.threads.add(threading.get_ident())
        self.barrier.wait(LONG)
        return [np.array([row], dtype=np.float32) for row in rows]


@contextmanager
def pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(threads) as executor:
        yield executor


@pytest.mark.parametrize("sessions", [2, 3])
def test_sessions_run_batches_at_the_same_time(sessions: int) -> None:
    """A batch runs only if others run beside it; the thread that asks is one of the sessions."""
    with pool(sessions - 1) as executor:
        model = Meeting(sessions)
        runs = ModelRunner(model, Limits(jobs=1), sessions=sessions, executor=executor)
        rows = list(range(4 * sessions))
        results, _ = runs.run(rows, [4] * len(rows))
    assert [result[0] for result in results if not isinstance(result, ModelFailed)] == rows
    assert len(model.threads) == sessions
    assert threading.get_ident() in model.threads


def test_one_session_runs_one_batch_at_a_time() -> None:
    """Negative control."""
    model = Meeting(2)
    model.barrier.abort()  # it would wait for a second one in vain
    results, _ = ModelRunner(model, Limits(jobs=1)).run([1, 2], [4, 4])
    assert all(isinstance(result, ModelFailed) for result in results)


def test_batch_that_is_long_is_split_between_sessions() -> None:
    with pool(1) as executor:
        model = Meeting(2)
        runs = ModelRunner(model, Limits(), sessions=2, executor=executor)
        results, _ = runs.run([1, 2, 3, 4], [200] * 4)  # predicted: 8 ms
    assert [float(result[0]) for result in results if not isinstance(result, ModelFailed)] == [1, 2, 3, 4]


def test_error_of_our_own_is_raised_when_no_session_runs_any_more() -> None:
    class Faulty(Counts):
        def ran(self, rows: int, tokens: int, padded: int, seconds: float) -> None:
            super().ran(rows, tokens, padded, seconds)
            raise RuntimeError("an error of ours")

    with pool(1) as executor:
        model = Meeting(2)
        runs = ModelRunner(model, Limits(jobs=1), sessions=2, executor=executor, recorder=Faulty())
        with pytest.raises(RuntimeError, match="an error of ours"):
            runs.run([1, 2], [4, 4])
        assert model.barrier.n_waiting == 0
