"""Overload, whichever stage is the slow one: the worker learns it, refuses early, and loses no capacity."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from google.protobuf.message import Message

from swiftrec.server.batching.admission import BUDGET_MARGIN, MIN_RETRY_S, Reject, RejectReason, reject
from swiftrec.server.batching.scheduler import Limits
from swiftrec.server.errors import Overloaded
from swiftrec.server.messages import MessageLimits
from swiftrec.server.pb.swiftrec.v1 import encoder_pb2
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from swiftrec.server.ticket import Reply, Ticket
from swiftrec.server.worker.methods import recommender_methods
from swiftrec.server.worker.worker import Worker
from tests.server import small
from tests.server.workers import BATCH_RECOMMEND, ENCODE, RECOMMEND, SmallEngine

R = TypeVar("R")
_SLOW_S, _QUICK_S = 0.045, 1e-4  # of a stage, for each request
_CAPACITY_CALLS = 600  # that could be answered while calls arrive
_TIMEOUT_S = 1.0
_WAITING = 100  # requests, when another comes
_LEARNING_S = 4.0  # in which a stage has become 90 times slower and calls are accepted that end too late


class SlowSizes(MessageLimits):
    """Writing a response takes time."""

    on_encode: Callable[[], None]

    def encode(self, response: Message) -> bytes:
        """A response in bytes."""
        self.on_encode()
        return super().encode(response)


class Overload:
    """An engine in which one stage is slow, and calls that arrive at a steady rate, whatever becomes of them."""

    def __init__(self, one: SmallEngine, stage: str, patch: pytest.MonkeyPatch) -> None:
        self.one, self.stage = one, stage
        self.sizes = SlowSizes()
        object.__setattr__(self.sizes, "on_encode", lambda: self._spend("respond"))
        one.encoder.row_s = _SLOW_S if stage in {"encode", "texts"} else _QUICK_S
        one.ranker.row_s = _SLOW_S if stage == "rank" else _QUICK_S
        catalogue, scoring = one.engine.catalogue, one.engine.scoring
        patch.setattr(catalogue, "search_many", self._slowed("search", catalogue.search_many, len))
        patch.setattr(catalogue, "mask", self._slowed("filter", catalogue.mask, lambda filtered: not filtered.is_empty))
        patch.setattr(catalogue, "popular", self._slowed("popularity", catalogue.popular))
        patch.setattr(scoring, "aims", self._slowed("score", scoring.aims, len))

    def message(self, n: int) -> tuple[str, Message]:
        """A call that the slow stage is part of, once."""
        event = pb.Event(item_id=f"i{n % 40}")
        if self.stage == "texts":
            return ENCODE, encoder_pb2.EncodeRequest(texts=[f"a{n}"])
        if self.stage == "popularity":
            return RECOMMEND, pb.RecommendRequest()
        if self.stage == "filter":
            conditions = pb.Filter(any_of=[pb.AttributeValues(name="kind", values=["k1", "k2"])])
            return RECOMMEND, pb.RecommendRequest(history=[event], filter=conditions)
        return RECOMMEND, pb.RecommendRequest(history=[event], query=f"a{n}" if self.stage == "encode" else "")

    def _slowed(
        self, stage: str, function: Callable[..., R], times: Callable[[Any], float] = lambda _first: 1.0
    ) -> Callable[..., R]:
        """The function, which takes time for each request; `times` tells how many from its first argument."""

        def run(first: object, *rest: object) -> R:
            self._spend(stage, times(first))
            return function(first, *rest)

        return run

    def _spend(self, stage: str, times: float = 1) -> None:
        self.one.clock.now += (_SLOW_S if stage == self.stage else _QUICK_S) * times


@dataclass(slots=True)
class Ledger:
    """How calls ended."""

    good: int = 0
    late_s: list[float] = field(default_factory=list)  # when
    refused: list[Overloaded] = field(default_factory=list)
    waits_s: list[float] = field(default_factory=list)  # predicted when they were refused
    refusals_s: list[float] = field(default_factory=list)
    seconds: float = 0.0


def offer(overload: Overload, times: float, reject: Reject, entries: int = 1, timeout_s: float = _TIMEOUT_S) -> Ledger:
    """Offer `times` the capacity, in calls of this many requests, until as many calls could have been answered."""
    one, ledger = overload.one, Ledger()
    methods = recommender_methods(one.services(overload.sizes))
    worker = Worker(methods, Limits(), clock=one.clock, reject=reject)
    began, every_s = one.clock.now, _SLOW_S * entries / times
    calls = int(times * _CAPACITY_CALLS / entries)
    sent = 0

    def ticket(number: int) -> Ticket:
        method, message = overload.message(number)
        if entries > 1:
            requests = [overload.message(number * entries + n)[1] for n in range(entries)]
            method, message = BATCH_RECOMMEND, pb.BatchRecommendRequest(requests=requests)  # type: ignore[arg-type]
        arrival = began + number * every_s

        def done(reply: Reply) -> None:
            if isinstance(reply, bytes):
                assert one.clock.now < arrival + timeout_s
                ledger.good += 1
            elif isinstance(reply, Overloaded):
                ledger.refused.append(reply)
                ledger.waits_s.append(worker.load.wait_s)
                ledger.refusals_s.append(one.clock.now - arrival)
            else:
                ledger.late_s.append(one.clock.now - began)

        return Ticket(method, message.SerializeToString(), arrival + timeout_s, done)

    while sent < calls or worker.has_work:
        while sent < calls and began + sent * every_s <= one.clock.now:
            worker.admit(ticket(sent))
            sent += 1
        if worker.has_work:
            worker.step()
        elif sent < calls:
            one.clock.now = max(one.clock.now, began + sent * every_s)
    ledger.seconds = one.clock.now - began
    one.check_unused()
    return ledger


@pytest.fixture
def one(tmp_path_factory: pytest.TempPathFactory) -> SmallEngine:
    return SmallEngine(small.write_bundle(tmp_path_factory.mktemp("small") / "1"))


@pytest.fixture
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


STAGES = ["encode", "rank", "score", "search", "filter", "popularity", "respond", "texts"]


def admit_all(*_: object) -> RejectReason | None:
    """No admission: everything is queued."""
    return None


def _retry_s(refusal: Overloaded, wait_s: float, limits: Limits) -> float:
    """When a call may come again that found this wait: when the queue is within its budget, or empty."""
    is_late = "deadline" in str(refusal)
    return max(MIN_RETRY_S, wait_s if is_late else wait_s - BUDGET_MARGIN * limits.budget_s)


@pytest.mark.parametrize("times", [2.0, 10.0])
@pytest.mark.parametrize("stage", STAGES)
def test_goodput_stays_at_capacity_and_the_rest_is_refused(
    one: SmallEngine, patch: pytest.MonkeyPatch, stage: str, times: float
) -> None:
    """Although the stage was quick when the engine was warmed up: what it has become is learned on the way."""
    ledger = offer(Overload(one, stage, patch), times, reject)
    assert ledger.good >= 0.95 * ledger.seconds / _SLOW_S
    assert all(at < _LEARNING_S for at in ledger.late_s)
    for refusal, wait_s in list(zip(ledger.refused, ledger.waits_s, strict=True))[-100:]:
        assert refusal.retry_after == pytest.approx(_retry_s(refusal, wait_s, Limits()))
    assert max(ledger.refusals_s[-100:]) <= Limits().step_s + _SLOW_S  # no refusal waits for more than a step


@pytest.mark.parametrize("budget_s", [1.0, 3_600.0])
@pytest.mark.parametrize("stage", STAGES)
def test_retry_is_when_what_waits_for_the_slow_stage_has_run(
    one: SmallEngine, patch: pytest.MonkeyPatch, stage: str, budget_s: float
) -> None:
    """Refused by the budget, or by the deadline where the budget is large."""
    overload, limits = Overload(one, stage, patch), Limits(budget_s=budget_s)
    rules: list[Reject] = [admit_all, reject]
    worker = Worker(
        recommender_methods(one.services(overload.sizes)),
        limits,
        clock=one.clock,
        reject=lambda *given: rules[0](*given),
    )
    for waiting in (0, _WAITING):  # first what the stage costs is learned
        for n in range(2 * _WAITING):
            method, message = overload.message(n)
            worker.admit(Ticket(method, message.SerializeToString(), 1e9, lambda _reply: None))
        while worker.load.jobs > waiting:
            worker.step()
    del rules[0]
    refused: list[Reply] = []
    method, message = overload.message(_WAITING)
    worker.admit(Ticket(method, message.SerializeToString(), one.clock.now + _TIMEOUT_S, refused.append))
    (refusal,) = refused
    assert isinstance(refusal, Overloaded)
    wait_s = worker.load.jobs * _SLOW_S
    assert refusal.retry_after == pytest.approx(_retry_s(refusal, wait_s, limits), rel=0.1)
    assert ("deadline" in str(refusal)) == (budget_s > wait_s)


@pytest.mark.parametrize("stage", ["encode", "rank", "search", "filter"])
def test_goodput_of_lists_stays_at_capacity(one: SmallEngine, patch: pytest.MonkeyPatch, stage: str) -> None:
    ledger = offer(Overload(one, stage, patch), 4.0, reject, entries=8, timeout_s=3.0)
    assert ledger.good * 8 >= 0.95 * ledger.seconds / _SLOW_S
    assert ledger.refused


@pytest.mark.parametrize("stage", STAGES)
def test_below_capacity_nothing_is_refused_once_the_stage_is_known(
    one: SmallEngine, patch: pytest.MonkeyPatch, stage: str
) -> None:
    overload = Overload(one, stage, patch)
    assert offer(overload, 0.9, reject).good >= 0.9 * _CAPACITY_CALLS * 0.9
    again = offer(overload, 0.9, reject)
    assert (again.good, again.late_s, again.refused) == (int(0.9 * _CAPACITY_CALLS), [], [])


@pytest.mark.parametrize("stage", STAGES)
def test_without_admission_most_of_the_capacity_is_lost(
    one: SmallEngine, patch: pytest.MonkeyPatch, stage: str
) -> None:
    """Negative control."""
    ledger = offer(Overload(one, stage, patch), 2.0, admit_all)
    assert ledger.good < 0.5 * ledger.seconds / _SLOW_S
