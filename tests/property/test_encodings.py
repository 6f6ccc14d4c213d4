"""Cache and single-flight: every wish is fulfilled once or taken back, equal texts run once, bytes are bounded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from server.batching.job import Job, State
from server.errors import DeadlineExceeded, Overloaded, SwiftrecError
from server.pipeline.encodings import Encodings, VectorCache

Vector = NDArray[np.float32]
Queued = Job[Sequence[int], Vector]


class Queue:
    """A batcher by hand: jobs wait until the test runs, expires or refuses them."""

    def __init__(self) -> None:
        self.jobs: list[Queued] = []
        self.ran: list[tuple[int, ...]] = []
        self.is_full = False

    def submit(
        self,
        payload: Sequence[int],
        tokens: int,
        deadline: float,
        done: Callable[[Vector | SwiftrecError], None],
        priority: int,
    ) -> Queued:
        if self.is_full:
            raise Overloaded(1.0)
        job: Queued = Job(payload, tokens, priority, deadline, done)
        self.jobs.append(job)
        return job

    def cancel(self, job: Queued) -> bool:
        if job not in self.jobs:
            return False
        self.jobs.remove(job)
        return True

    def extend(self, job: Queued, deadline: float, priority: int) -> bool:
        if job.state is State.EXPIRED:
            return False
        job.deadline, job.priority = max(job.deadline, deadline), min(job.priority, priority)
        return True

    def run(self) -> None:
        jobs, self.jobs = self.jobs, []
        for job in jobs:
            self.ran.append(tuple(job.payload))
            job.done(vector(job.payload))


@dataclass
class Wish:
    """Somebody who wants a vector."""

    ids: tuple[int, ...]
    got: list[Vector | SwiftrecError] = field(default_factory=list)
    take_back: Callable[[], None] | None = None
    is_over: bool = False


def vector(ids: Sequence[int]) -> Vector:
    return np.array([sum(ids), len(ids)], dtype=np.float32)


def encodings(queue: Queue, cache_bytes: int = 0) -> Encodings:
    return Encodings(queue, cache_bytes)  # type: ignore[arg-type] # the part of a batcher that it uses


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["wish", "wish", "take back", "run"]), st.integers(0, 5)), max_size=60),
    st.sampled_from([0, 1_000, 100_000]),
)
def test_every_wish_is_fulfilled_once_or_taken_back(steps: list[tuple[str, int]], cache_bytes: int) -> None:
    queue = Queue()
    wishes: list[Wish] = []
    one = encodings(queue, cache_bytes)
    for step, n in steps:
        if step == "wish":
            wish = Wish((n + 1,) * (n + 1))
            wish.take_back = one.submit(wish.ids, 1e9, 5, wish.got.append)
            wishes.append(wish)
        elif step == "run":
            assert len({tuple(job.payload) for job in queue.jobs}) == len(queue.jobs)  # equal ids run once
            queue.run()
        elif wishes and (wish := wishes[n % len(wishes)]).take_back and not wish.got:
            wish.take_back()
            wish.is_over = True
        assert one.cached_bytes <= cache_bytes
    queue.run()
    for wish in wishes:
        assert len(wish.got) == (0 if wish.is_over else 1)
        assert wish.is_over or np.array_equal(wish.got[0], vector(wish.ids))  # type: ignore[arg-type]


def test_cached_vector_comes_without_a_job_and_holds_no_batch() -> None:
    queue = Queue()
    one = encodings(queue, 10_000)
    batch = np.arange(20, dtype=np.float32).reshape(10, 2)
    got: list[Vector | SwiftrecError] = []
    one.submit((1, 2), 1e9, 5, got.append)
    queue.jobs.pop().done(batch[3])
    assert one.submit((1, 2), 1e9, 5, got.append) is None
    assert queue.jobs == []
    assert np.array_equal(got[0], got[1])  # type: ignore[arg-type]
    assert got[1].base is None  # type: ignore[union-attr]


def test_cache_forgets_what_was_used_longest_ago() -> None:
    cache = VectorCache(3 * (len(b"a") + 8 + 360))
    for key in (b"a", b"b", b"c"):
        cache.put(key, vector([1]))
    assert cache.get(b"a") is not None
    cache.put(b"d", vector([1]))
    assert [cache.get(key) is None for key in (b"a", b"b", b"c", b"d")] == [False, True, False, False]


def test_one_of_two_who_leaves_does_not_take_the_others_job() -> None:
    queue = Queue()
    one = encodings(queue)
    first: list[Vector | SwiftrecError] = []
    second: list[Vector | SwiftrecError] = []
    take_back = one.submit((1,), 5.0, 9, first.append)
    one.submit((1,), 9.0, 1, second.append)
    assert [(job.deadline, job.priority) for job in queue.jobs] == [(9.0, 1)]
    assert take_back is not None
    take_back()
    queue.run()
    assert (len(first), len(second)) == (0, 1)


def test_last_one_who_leaves_takes_the_job_back() -> None:
    queue = Queue()
    take_back = encodings(queue).submit((1,), 5.0, 5, lambda _: pytest.fail("answered"))
    assert take_back is not None
    take_back()
    assert queue.jobs == []


def test_who_comes_after_the_job_expired_gets_one_of_his_own() -> None:
    queue = Queue()
    late: list[Vector | SwiftrecError] = []
    early: list[Vector | SwiftrecError] = []
    one = encodings(queue)
    one.submit((1,), 5.0, 5, early.append)
    queue.jobs[0].state = State.EXPIRED
    expired = queue.jobs.pop()
    one.submit((1,), 50.0, 5, late.append)
    expired.done(DeadlineExceeded("late"))
    queue.run()
    assert isinstance(early[0], DeadlineExceeded)
    assert np.array_equal(late[0], vector([1]))  # type: ignore[arg-type]


def test_refused_wish_leaves_nothing_behind() -> None:
    queue = Queue()
    one = encodings(queue)
    queue.is_full = True
    with pytest.raises(Overloaded):
        one.submit((1,), 5.0, 5, lambda _: None)
    queue.is_full = False
    got: list[Vector | SwiftrecError] = []
    one.submit((1,), 5.0, 5, got.append)
    queue.run()
    assert len(got) == 1
