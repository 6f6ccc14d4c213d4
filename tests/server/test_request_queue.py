"""The queue of requests: its order, what goes into a step, and that its sums are those of what waits."""

from __future__ import annotations

import math
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from swiftrec.server.batching.request_queue import NEVER, QueuedRequest, RequestQueue, Step
from swiftrec.server.batching.scheduler import Limits, Reason

_AGING_S = 0.125
_MOMENTS = st.integers(0, 2_000).map(lambda n: n / 256)  # exact in binary, so that no sum is rounded
_COSTS = st.integers(1, 400).map(lambda n: n / 1_024)


def request(
    priority: int = 5, deadline: float = NEVER, arrival: float = 0.0, lag_s: float = 0.0, cost_s: float = 0.25
) -> QueuedRequest:
    made = QueuedRequest(priority)
    made.deadline, made.arrival, made.lag_s, made.cost_s, made.tokens = deadline, arrival, lag_s, cost_s, 3
    return made


_REQUESTS = st.builds(
    request, st.integers(1, 9), _MOMENTS.map(lambda n: n + 10.0), _MOMENTS, _MOMENTS.map(lambda n: n / 8), _COSTS
)


def queue_of(*requests: QueuedRequest) -> RequestQueue[QueuedRequest]:
    queue: RequestQueue[QueuedRequest] = RequestQueue(_AGING_S)
    for each in requests:
        queue.push(each)
    return queue


def drained(queue: RequestQueue[QueuedRequest], now: float = 0.0) -> list[QueuedRequest]:
    """Every request that waits, in the order in which they run."""
    found: list[QueuedRequest] = []
    while queue.waiting.requests:
        found += queue.next_step(Limits(jobs=1), now).requests
    return found


def aged_priority(waiting: QueuedRequest, now: float) -> float:
    """By the definition, at a given time: improved by one for each `aging_s` of waiting."""
    return waiting.priority - (now - waiting.arrival - waiting.lag_s) / _AGING_S


@given(st.lists(_REQUESTS, min_size=2, max_size=40), st.floats(0, 1e6))
def test_order_is_priority_improved_by_waiting_then_deadline_then_arrival(
    requests: list[QueuedRequest], now: float
) -> None:
    for first, second in pairwise(drained(queue_of(*requests))):
        assert aged_priority(first, now) < aged_priority(second, now) + 1 + 1e-6  # in whole priorities
        keys = [
            (
                math.floor(each.priority + (each.arrival + each.lag_s) / _AGING_S),
                each.deadline + each.lag_s,
                each.arrival + each.lag_s,
            )
            for each in (first, second)
        ]
        assert keys[0] <= keys[1]


@given(st.lists(_REQUESTS, min_size=1, max_size=30), st.floats(0, 1e5))
def test_order_does_not_depend_on_when_it_is_looked_at(requests: list[QueuedRequest], later: float) -> None:
    for each in requests:
        each.deadline = NEVER
    assert drained(queue_of(*requests)) == drained(queue_of(*requests), later)


def test_earlier_deadline_goes_first_among_equals_and_then_the_earlier_arrival() -> None:
    late, early = request(deadline=9.0), request(deadline=2.0, arrival=0.01)
    twin = request(deadline=9.0, arrival=0.02)
    assert drained(queue_of(twin, late, early)) == [early, late, twin]
    equals = [request() for _ in range(20)]
    assert drained(queue_of(*equals)) == equals


def test_waiting_makes_up_for_a_low_priority() -> None:
    old = request(priority=9)
    soon, later = request(priority=1, arrival=0.05), request(priority=1, arrival=1.01)
    assert drained(queue_of(old, soon, later)) == [soon, old, later]


@given(st.integers(2, 9), st.integers(1, 8))
def test_no_request_starves_under_a_stream_of_more_urgent_ones(priority: int, per_step: int) -> None:
    """More urgent requests arrive as fast as they run: the others run when they have aged, and no later."""
    waiting, step_s = request(priority=priority), 1 / 128
    queue, now, limits = queue_of(waiting), 0.0, Limits(jobs=per_step, step_s=10.0)
    while waiting.is_queued:
        for _ in range(per_step):
            queue.push(request(priority=1, arrival=now))
        queue.next_step(limits, now)
        now += step_s
        assert now <= priority * _AGING_S + 2 * step_s


@given(st.integers(2, 256), st.integers(1, 64), st.integers(0, 255))
def test_single_request_does_not_wait_for_the_whole_of_a_long_list(entries: int, cost: int, came: int) -> None:
    """Of a list that came earlier it waits for what would have run by the time of its arrival."""
    cost_s = cost / 1_024
    arrival = min(came, entries - 1) * cost_s
    listed = [request(deadline=50.0, lag_s=n * cost_s, cost_s=cost_s) for n in range(entries)]
    single = request(deadline=50.0 + arrival, arrival=arrival, cost_s=cost_s)
    order = drained(queue_of(*listed, single))
    assert order.index(single) * cost_s <= arrival + cost_s
    assert [each for each in order if each is not single] == listed


def test_without_the_lag_a_single_request_waits_for_all_of_it() -> None:
    """Negative control."""
    listed, single = [request() for _ in range(256)], request(arrival=0.01)
    assert drained(queue_of(*listed, single)).index(single) == 256


@given(
    st.lists(st.tuples(st.sampled_from(["push", "push", "remove", "step"]), _REQUESTS, st.integers(0, 99)), max_size=60)
)
def test_sums_are_those_of_what_waits(steps: list[tuple[str, QueuedRequest, int]]) -> None:
    queue, seen, waiting, now = queue_of(), list[QueuedRequest](), list[QueuedRequest](), 0.0
    for step, fresh, number in steps:
        if step == "push":
            fresh.tokens = number
            queue.push(fresh)
            seen.append(fresh)
            waiting.append(fresh)
        elif step == "remove" and seen:
            gone = seen[number % len(seen)]  # one that has left already, too
            queue.remove(gone)
            waiting = [each for each in waiting if each is not gone]
        elif step == "step":
            now += 1.0
            left = queue.next_step(Limits(jobs=number % 5 + 1), now)
            gone_now = {id(each) for each in (*left.requests, *left.expired)}
            assert gone_now <= {id(each) for each in waiting}  # each leaves once
            waiting = [each for each in waiting if id(each) not in gone_now]
        assert queue.waiting.requests == len(waiting)
        assert queue.waiting.tokens == sum(each.tokens for each in waiting)
        assert queue.waiting.cost_s == sum(each.cost_s for each in waiting)
        assert all(each.is_queued for each in waiting)
        assert sum(each.is_queued for each in seen) == len(waiting)


@given(st.lists(_REQUESTS, max_size=60), st.integers(1, 20), _COSTS, st.floats(8, 20))
def test_step_keeps_its_limits_has_one_request_at_least_and_none_that_has_expired(
    requests: list[QueuedRequest], jobs: int, step_s: float, now: float
) -> None:
    queue, limits = queue_of(*requests), Limits(jobs=jobs, step_s=step_s)
    live = [each for each in requests if each.deadline > now]
    step: Step[QueuedRequest] = queue.next_step(limits, now)
    assert all(each.deadline > now for each in step.requests)
    assert all(each.deadline <= now for each in step.expired)
    assert bool(step.requests) == bool(live)
    assert len(step.requests) <= jobs
    predicted_s = sum(each.cost_s for each in step.requests)
    assert predicted_s <= step_s or len(step.requests) == 1
    left = len(live) - len(step.requests)
    if step.reason is Reason.FULL:
        assert len(step.requests) == jobs
    elif step.reason is Reason.CUT:
        following = next(each for each in drained(queue, now) if each.deadline > now)
        assert predicted_s + following.cost_s > step_s
    else:
        assert left == 0
    assert left >= (step.reason is not Reason.DRAINED)


def test_step_of_a_queue_without_live_requests_is_empty() -> None:
    late = [request(deadline=1.0), request(deadline=2.0)]
    step = queue_of(*late).next_step(Limits(), now=2.0)
    assert (step.requests, step.expired, step.reason) == ([], late, Reason.DRAINED)


def test_cancelled_requests_do_not_pile_up() -> None:
    """Behind an urgent request that stays; a deadline in an hour keeps what it holds no longer than that."""
    queue = queue_of(request(priority=1))
    for n in range(10_000):
        gone = request(arrival=n / 1e3, deadline=3_600.0)
        queue.push(gone)
        queue.remove(gone)
        assert len(queue._heap) <= 2 * queue.waiting.requests + 66
    assert queue.waiting.requests == 1


def test_what_each_batch_costs_before_its_first_row_does_not_make_a_step_shorter() -> None:
    """Four requests that share a batch of 50 ms, whose rows cost nothing: fewer in a step would take as long."""
    waiting = [request(cost_s=0.0125) for _ in range(4)]
    limits = Limits(step_s=0.04)
    assert len(queue_of(*waiting).next_step(limits, 0.0).requests) == 3
    for each in waiting:
        each.batch_s = 0.05
    assert len(queue_of(*waiting).next_step(limits, 0.0).requests) == 4
