"""The queue of requests, how batches are formed, and what run times are predicted."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swiftrec.server.batching.cost_model import CostModel, Observation, Rate
from swiftrec.server.batching.request_queue import NEVER, QueuedRequest, RequestQueue, Step
from swiftrec.server.batching.scheduler import MIN_SPLIT_S, Limits, Reason, batch_capacity, form_batches

_AGING_S = 0.125


_MOMENTS = st.integers(0, 2_000).map(lambda n: n / 256)  # exact in binary, so that no sum is rounded


_COSTS = st.integers(1, 400).map(lambda n: n / 1_024)


def request(
    priority: int = 5, deadline: float = NEVER, arrival: float = 0.0, lag_s: float = 0.0, cost_s: float = 0.25
) -> QueuedRequest:
    queued = QueuedRequest(priority)
    queued.deadline, queued.arrival, queued.lag_s, queued.cost_s, queued.tokens = deadline, arrival, lag_s, cost_s, 3
    return queued


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
    actual: list[QueuedRequest] = []
    while queue.waiting.requests:
        actual += queue.next_step(Limits(batch_size=1), now).requests
    return actual


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


def test_equal_priorities_are_ordered_by_deadline_and_arrival() -> None:
    late, early = request(deadline=9.0), request(deadline=2.0, arrival=0.01)
    twin = request(deadline=9.0, arrival=0.02)
    assert drained(queue_of(twin, late, early)) == [early, late, twin]
    equals = [request() for _ in range(20)]
    assert drained(queue_of(*equals)) == equals


def test_low_priority_request_moves_up_while_it_waits() -> None:
    old = request(priority=9)
    soon, later = request(priority=1, arrival=0.05), request(priority=1, arrival=1.01)
    assert drained(queue_of(old, soon, later)) == [soon, old, later]


@given(st.integers(2, 9), st.integers(1, 8))
def test_no_request_starves_under_a_stream_of_more_urgent_ones(priority: int, per_step: int) -> None:
    """More urgent requests arrive as fast as they run: the others run when they have aged, and no later."""
    waiting, step_s = request(priority=priority), 1 / 128
    queue, now, limits = queue_of(waiting), 0.0, Limits(batch_size=per_step, step_s=10.0)
    while waiting.is_queued:
        for _ in range(per_step):
            queue.push(request(priority=1, arrival=now))
        queue.next_step(limits, now)
        now += step_s
        assert now <= priority * _AGING_S + 2 * step_s


@given(st.integers(2, 256), st.integers(1, 64), st.integers(0, 255))
def test_single_request_does_not_wait_for_a_whole_batch_request(entries: int, cost: int, came: int) -> None:
    """Of a list that came earlier it waits for what would have run by the time of its arrival."""
    cost_s = cost / 1_024
    arrival = min(came, entries - 1) * cost_s
    listed = [request(deadline=50.0, lag_s=n * cost_s, cost_s=cost_s) for n in range(entries)]
    single = request(deadline=50.0 + arrival, arrival=arrival, cost_s=cost_s)
    order = drained(queue_of(*listed, single))
    assert order.index(single) * cost_s <= arrival + cost_s
    assert [each for each in order if each is not single] == listed


def test_single_request_waits_for_a_whole_batch_request_without_fair_share() -> None:
    """Negative control."""
    listed, single = [request() for _ in range(256)], request(arrival=0.01)
    assert drained(queue_of(*listed, single)).index(single) == 256


@given(
    st.lists(st.tuples(st.sampled_from(["push", "push", "remove", "step"]), _REQUESTS, st.integers(0, 99)), max_size=60)
)
def test_queue_totals_equal_the_waiting_requests(steps: list[tuple[str, QueuedRequest, int]]) -> None:
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
            left = queue.next_step(Limits(batch_size=number % 5 + 1), now)
            gone_now = {id(each) for each in (*left.requests, *left.expired)}
            assert gone_now <= {id(each) for each in waiting}  # each leaves once
            waiting = [each for each in waiting if id(each) not in gone_now]
        assert queue.waiting.requests == len(waiting)
        assert queue.waiting.tokens == sum(each.tokens for each in waiting)
        assert queue.waiting.cost_s == sum(each.cost_s for each in waiting)
        assert all(each.is_queued for each in waiting)
        assert sum(each.is_queued for each in seen) == len(waiting)


@given(st.lists(_REQUESTS, max_size=60), st.integers(1, 20), _COSTS, st.floats(8, 20))
def test_step_has_at_least_one_request_within_limits_and_none_expired(
    requests: list[QueuedRequest], batch_size: int, step_s: float, now: float
) -> None:
    queue, limits = queue_of(*requests), Limits(batch_size=batch_size, step_s=step_s)
    live = [each for each in requests if each.deadline > now]
    step: Step[QueuedRequest] = queue.next_step(limits, now)
    assert all(each.deadline > now for each in step.requests)
    assert all(each.deadline <= now for each in step.expired)
    assert bool(step.requests) == bool(live)
    assert len(step.requests) <= batch_size
    predicted_s = sum(each.cost_s for each in step.requests)
    assert predicted_s <= step_s or len(step.requests) == 1
    left = len(live) - len(step.requests)
    if step.reason is Reason.FULL:
        assert len(step.requests) == batch_size
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


def test_cancelled_requests_do_not_accumulate() -> None:
    """Behind an urgent request that stays; a deadline in an hour keeps what it holds no longer than that."""
    queue = queue_of(request(priority=1))
    for n in range(10_000):
        gone = request(arrival=n / 1e3, deadline=3_600.0)
        queue.push(gone)
        queue.remove(gone)
        assert len(queue._heap) <= 2 * queue.waiting.requests + 66
    assert queue.waiting.requests == 1


def test_fixed_cost_of_a_batch_does_not_shorten_a_step() -> None:
    """Four requests that share a batch of 50 ms, whose rows cost nothing: fewer in a step would take as long."""
    waiting = [request(cost_s=0.0125) for _ in range(4)]
    limits = Limits(step_s=0.04)
    assert len(queue_of(*waiting).next_step(limits, 0.0).requests) == 3
    for each in waiting:
        each.batch_s = 0.05
    assert len(queue_of(*waiting).next_step(limits, 0.0).requests) == 4


_LENGTHS = st.lists(st.integers(1, 512), min_size=1, max_size=80)


def model(batch_s: float, token_s: float, cache_pressure_s: float) -> CostModel:
    """A cost model that has seen batches of these costs."""
    cost = CostModel()
    grid = [(n, length) for n in (1, 2, 4, 16) for length in (4, 16, 64, 256)]
    cost.seed(
        Observation(n, length, batch_s + token_s * n * length + cache_pressure_s * (n * length) ** 2)
        for n, length in grid
    )
    return cost


_COSTS_SCHEDULER = st.builds(
    model, st.sampled_from([1e-5, 1e-3, 1e-2]), st.sampled_from([1e-6, 1e-4]), st.sampled_from([0.0, 1e-8, 1e-6])
)


def total_s(batches: list[list[int]], lengths: list[int], cost: CostModel) -> float:
    return sum(cost(len(batch), max(lengths[n] for n in batch)) for batch in batches)


@given(_LENGTHS, st.integers(1, 4_096), st.integers(1, 64), _COSTS_SCHEDULER, st.integers(1, 4))
def test_each_row_is_in_one_batch_and_batches_keep_the_limits(
    lengths: list[int], tokens: int, batch_size: int, cost: CostModel, sessions: int
) -> None:
    limits = Limits(tokens=tokens, batch_size=batch_size)
    batches = form_batches(lengths, limits, cost, sessions)
    assert sorted(n for batch in batches for n in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[n] for n in batch)
        assert 1 <= len(batch) <= batch_capacity(longest, limits)
        assert len(batch) == 1 or len(batch) * longest <= tokens


@given(_LENGTHS, _COSTS_SCHEDULER, st.integers(1, 4))
def test_batches_are_of_similar_lengths(lengths: list[int], cost: CostModel, sessions: int) -> None:
    """They are ranges of the sorted lengths: no batch reaches into another."""
    batches = form_batches(lengths, Limits(), cost, sessions)
    spans = sorted((min(lengths[n] for n in batch), max(lengths[n] for n in batch)) for batch in batches)
    assert all(before[1] <= after[0] for before, after in pairwise(spans))


@given(st.lists(st.integers(1, 200), min_size=1, max_size=9), _COSTS_SCHEDULER, st.integers(1, 5))
def test_batches_have_the_least_total_cost(lengths: list[int], cost: CostModel, batch_size: int) -> None:
    """Against every way to cut the sorted lengths, tried one by one."""
    limits = Limits(tokens=300, batch_size=batch_size)

    def cheapest(rest: list[int]) -> float:
        if not rest:
            return 0.0
        sizes = [n for n in range(1, min(len(rest), batch_size) + 1) if n == 1 or n * rest[n - 1] <= limits.tokens]
        return min(cost(n, rest[n - 1]) + cheapest(rest[n:]) for n in sizes)

    actual = total_s(form_batches(lengths, limits, cost), lengths, cost)
    assert math.isclose(actual, cheapest(sorted(lengths)), rel_tol=1e-9)


def test_short_and_long_rows_are_batched_separately_when_padding_costs_more_than_a_batch() -> None:
    lengths, limits = [4, 100, 4, 100, 5], Limits(tokens=1_000)
    separate = form_batches(lengths, limits, CostModel(batch_s=2e-4, token_s=1e-5))
    assert sorted(map(sorted, separate)) == [[0, 2, 4], [1, 3]]
    assert len(form_batches(lengths, limits, CostModel(batch_s=1.0, token_s=1e-5))) == 1


@given(_LENGTHS, _COSTS_SCHEDULER, st.integers(2, 8))
def test_large_batch_is_split_between_sessions(lengths: list[int], cost: CostModel, sessions: int) -> None:
    alone = form_batches(lengths, Limits(), cost)
    shared = form_batches(lengths, Limits(), cost, sessions)
    times_s = [cost(len(batch), max(lengths[n] for n in batch)) for batch in shared]
    if len(alone) >= sessions:
        assert shared == alone
    else:
        assert len(alone) <= len(shared) <= sessions
        longest = max(range(len(shared)), key=times_s.__getitem__)
        assert len(shared) == sessions or len(shared[longest]) == 1 or times_s[longest] < MIN_SPLIT_S
    assert max(times_s) <= max(cost(len(batch), max(lengths[n] for n in batch)) for batch in alone) + 1e-12


def test_short_batch_is_not_split() -> None:
    lengths, limits = [16] * 32, Limits()
    assert len(form_batches(lengths, limits, CostModel(1e-4, 1e-6), sessions=4)) == 1
    assert [len(batch) for batch in form_batches(lengths, limits, CostModel(1e-4, 1e-4), sessions=4)] == [8] * 4


def test_no_rows_make_no_batch() -> None:
    assert form_batches([], Limits(), CostModel(), sessions=2) == []


@given(st.floats(1e-5, 1e-2), st.floats(0, 1e-4), st.floats(1e-7, 1e-4), st.floats(0, 1e-7), st.floats(0, 1e-8))
def test_cost_model_recovers_the_terms_of_its_seeds(
    batch: float, row: float, token: float, pair: float, pressure: float
) -> None:
    def true(rows: int, length: int) -> float:
        return batch + rows * (row + token * length + pair * length**2) + pressure * (rows * length) ** 2

    cost = CostModel()
    cost.seed(Observation(n, length, true(n, length)) for n in (1, 2, 8, 32) for length in (4, 16, 64, 256))
    for rows, length in ((1, 10), (5, 30), (16, 128)):
        assert cost(rows, length) == pytest.approx(true(rows, length), rel=0.02)


def test_cost_model_follows_measured_times() -> None:
    cost = CostModel()
    cost.seed(Observation(n, length, 1e-4 * n * length) for n in (1, 8) for length in (4, 64))
    for n in range(1, 300):
        cost.observe(n % 16 + 1, 20, 3e-4 * 20 * (n % 16 + 1))
    assert cost(8, 20) == pytest.approx(3e-4 * 160, rel=0.1)


@pytest.mark.parametrize("times", [0.01, 0.3, 3.0, 50.0, 500.0])
def test_cost_model_follows_a_model_that_has_become_slower_or_faster(times: float) -> None:
    """However much: what was measured at the start gives the shape only, also of sizes that are not served now."""

    def once(rows: int, length: int) -> float:
        return 1e-3 + 1e-5 * rows * length

    cost = CostModel()
    cost.seed(Observation(n, length, once(n, length)) for n in (1, 2, 8, 32) for length in (4, 16, 64, 256))
    for _ in range(256):
        cost.observe(1, 16, times * once(1, 16))
    for rows, length in ((1, 16), (8, 16), (4, 128)):
        assert cost(rows, length) == pytest.approx(times * once(rows, length), rel=0.05)


@given(st.lists(st.tuples(st.integers(1, 64), st.integers(1, 256), st.floats(1e-6, 10)), min_size=1, max_size=40))
def test_cost_model_never_predicts_a_negative_time(seen: list[tuple[int, int, float]]) -> None:
    cost = CostModel()
    cost.seed(Observation(*entry) for entry in seen)
    assert cost(1, 1) >= 0
    assert cost(64, 256) >= cost(1, 256) >= 0


@given(st.integers(1, 128), st.integers(1, 64), st.sampled_from([0.0, 1e-9, 1e-7]))
def test_share_of_a_row_is_that_of_the_cheapest_batch(length: int, room: int, pressure: float) -> None:
    cost = CostModel()
    grid = [(n, tokens) for n in (1, 2, 8, 32) for tokens in (4, 16, 64, 256)]
    cost.seed(Observation(n, tokens, 1e-3 + 1e-5 * n * tokens + pressure * (n * tokens) ** 2) for n, tokens in grid)
    cheapest = min(cost(n, length) / n for n in range(1, room + 1))
    assert cheapest * 0.9 <= cost.cheapest_row_s(length, room) <= cheapest * (1 + 1e-9)


@given(st.floats(1e-7, 1.0), st.floats(1e-7, 1.0), st.lists(st.integers(1, 300), min_size=60, max_size=80))
def test_rate_follows_measurements(first_s: float, unit_s: float, works: list[int]) -> None:
    rate = Rate(first_s)
    for units in works:
        rate.observe(units, units * unit_s)
    low, high = sorted((first_s, unit_s))
    assert low * (1 - 1e-9) <= rate(1) <= high * (1 + 1e-9)
    assert rate(10) == pytest.approx(10 * unit_s, rel=0.01, abs=0.02 * first_s)


@given(st.floats(0, 1e-3))
def test_rate_is_unchanged_by_steps_without_that_work(overhead_s: float) -> None:
    """For as long as there is none: a rate that fades away would predict without bounds."""
    rate = Rate(5e-5)
    rate.observe(10, 10 * 5e-5)
    for _ in range(10_000):
        rate.observe(0, overhead_s)
    assert rate(1) == pytest.approx(5e-5)
    rate.observe(10, 10 * 5e-5)
    assert math.isfinite(rate(1))


def learned(*seconds: float) -> float:
    """Predicted seconds of a unit after 100 units of 1 ms, and then these."""
    rate = Rate(1e-3)
    for elapsed_s in (*[1e-3] * 100, *seconds):
        rate.observe(1, elapsed_s)
    return rate(1)


@pytest.mark.parametrize("outliers", [[1.0], [1.0, 1.0], [1.0, 1e-3, 1.0, 1.0, 1e-3]])
def test_rate_is_not_changed_by_outliers(outliers: list[float]) -> None:
    assert learned(*outliers) == pytest.approx(1e-3)


def test_rate_follows_work_that_became_slower() -> None:
    assert learned(*[1.0] * 3) > 0.09
    assert learned(*[1.0] * 30) == pytest.approx(1.0, rel=0.1)


def test_rate_follows_work_that_became_faster() -> None:
    assert learned(*[1e-5] * 60) == pytest.approx(1e-5, rel=0.3)
