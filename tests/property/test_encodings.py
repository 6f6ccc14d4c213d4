"""Cache and single-flight: every wish is fulfilled once or taken back, equal texts run once, bytes are bounded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from server.batching.job import Job, State
from server.errors import DeadlineExceeded, Overloaded, SwiftrecError
from server.pipeline.encodings import Encodings, VectorCache, Wish

Vector = NDArray[np.float32]
Queued = Job[Sequence[int], Vector]


class Queue:
    """A batcher by hand: jobs wait until the test runs, expires or refuses them."""

    def __init__(self) -> None:
        self.jobs: list[Queued] = []
        self.ran: list[tuple[int, ...]] = []
        self.is_full = False

    def submit_many(self, jobs: Sequence[Queued]) -> list[SwiftrecError | None]:
        if self.is_full:
            return [Overloaded(1.0) for _ in jobs]
        self.jobs += jobs
        return [None for _ in jobs]

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
class Wisher:
    """Somebody who wants a vector."""

    ids: tuple[int, ...]
    priority: int = 5
    got: list[Vector | SwiftrecError] = field(default_factory=list)
    is_over: bool = False

    def __post_init__(self) -> None:
        self.wish = Wish(self.ids, self.priority, self.got.append)


def vector(ids: Sequence[int]) -> Vector:
    return np.array([sum(ids), len(ids)], dtype=np.float32)


class Counts:
    """A watcher that counts."""

    def __init__(self) -> None:
        self.of: dict[str, int] = {}

    def looked_up(self, where: str, texts: int) -> None:
        self.of[where] = self.of.get(where, 0) + texts


def encodings(queue: Queue, cache_bytes: int = 0, watcher: Counts | None = None) -> Encodings:
    return Encodings(queue, cache_bytes, watcher)  # type: ignore[arg-type] # the part of a batcher that it uses


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["wish", "wish", "take back", "run"]), st.lists(st.integers(0, 5), min_size=1)),
        max_size=60,
    ),
    st.sampled_from([0, 1_000, 100_000]),
)
def test_every_wish_is_fulfilled_once_or_taken_back(steps: list[tuple[str, list[int]]], cache_bytes: int) -> None:
    queue = Queue()
    wishes: list[Wisher] = []
    one = encodings(queue, cache_bytes)
    for step, numbers in steps:
        if step == "wish":
            together = [Wisher((n + 1,) * (n + 1)) for n in numbers]
            one.submit([wisher.wish for wisher in together], 1e9)
            wishes += together
        elif step == "run":
            assert len({tuple(job.payload) for job in queue.jobs}) == len(queue.jobs)  # equal ids run once
            queue.run()
        elif wishes:
            together = [wishes[n % len(wishes)] for n in numbers]
            one.take_back([wisher.wish for wisher in together])
            for wisher in together:
                wisher.is_over |= not wisher.got
        assert one.cached_bytes <= cache_bytes
    queue.run()
    for wish in wishes:
        assert len(wish.got) == (0 if wish.is_over else 1)
        assert wish.is_over or np.array_equal(wish.got[0], vector(wish.ids))  # type: ignore[arg-type]


def test_cached_vector_comes_without_a_job_and_holds_no_batch() -> None:
    queue = Queue()
    one = encodings(queue, 10_000)
    batch = np.arange(20, dtype=np.float32).reshape(10, 2)
    first, second = Wisher((1, 2)), Wisher((1, 2))
    one.submit([first.wish], 1e9)
    queue.jobs.pop().done(batch[3])
    one.submit([second.wish], 1e9)
    assert queue.jobs == []
    assert np.array_equal(first.got[0], second.got[0])  # type: ignore[arg-type]
    assert second.got[0].base is None  # type: ignore[union-attr]


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
    first, second = Wisher((1,), priority=9), Wisher((1,), priority=1)
    one.submit([first.wish], 5.0)
    one.submit([second.wish], 9.0)
    assert [(job.deadline, job.priority) for job in queue.jobs] == [(9.0, 1)]
    one.take_back([first.wish])
    queue.run()
    assert (len(first.got), len(second.got)) == (0, 1)


def test_last_one_who_leaves_takes_the_job_back() -> None:
    queue = Queue()
    one, wisher = encodings(queue), Wisher((1,))
    one.submit([wisher.wish], 5.0)
    one.take_back([wisher.wish])
    assert queue.jobs == []
    assert one.in_flight == 0
    assert wisher.got == []


def test_who_comes_after_the_job_expired_gets_one_of_his_own() -> None:
    queue = Queue()
    early, late = Wisher((1,)), Wisher((1,))
    one = encodings(queue)
    one.submit([early.wish], 5.0)
    queue.jobs[0].state = State.EXPIRED
    expired = queue.jobs.pop()
    one.submit([late.wish], 50.0)
    expired.done(DeadlineExceeded("late"))
    queue.run()
    assert isinstance(early.got[0], DeadlineExceeded)
    assert np.array_equal(late.got[0], vector([1]))  # type: ignore[arg-type]


def test_refused_wish_leaves_nothing_behind() -> None:
    queue = Queue()
    watcher = Counts()
    one = encodings(queue, watcher=watcher)
    queue.is_full = True
    refused, accepted = Wisher((1,)), Wisher((1,))
    one.submit([refused.wish], 5.0)
    assert [type(answer) for answer in refused.got] == [Overloaded]
    assert watcher.of == {}
    queue.is_full = False
    one.submit([accepted.wish], 5.0)
    queue.run()
    assert (len(refused.got), len(accepted.got)) == (1, 1)


def test_text_that_occurs_twice_in_a_list_is_one_job_at_the_higher_priority() -> None:
    queue, watcher = Queue(), Counts()
    one = encodings(queue, watcher=watcher)
    wishers = [Wisher((1,), priority=9), Wisher((2,)), Wisher((1,), priority=2)]
    one.submit([wisher.wish for wisher in wishers], 5.0)
    assert [(tuple(job.payload), job.priority) for job in queue.jobs] == [((1,), 2), ((2,), 5)]
    assert watcher.of == {"joined": 1, "miss": 2}
    one.take_back([wishers[0].wish])
    queue.run()
    assert [len(wisher.got) for wisher in wishers] == [0, 1, 1]
