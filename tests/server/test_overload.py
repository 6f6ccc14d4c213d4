"""Overload: calls are rejected early with a time to retry, and batch calls do not starve single calls."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from swiftrec.server.app import App
from swiftrec.server.batching.admission import BUDGET_MARGIN, MIN_RETRY_S, Load, Reject, RejectReason, reject
from swiftrec.server.batching.scheduler import Limits
from swiftrec.server.errors import Overloaded
from swiftrec.server.messages import MessageLimits
from swiftrec.server.pb.swiftrec.v1 import encoder_pb2
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from swiftrec.server.pb.swiftrec.v1.recommender_pb2_grpc import RecommenderServiceStub
from swiftrec.server.ticket import Reply, Ticket
from swiftrec.server.worker.loop import WorkerThread
from swiftrec.server.worker.methods import recommender_methods
from swiftrec.server.worker.worker import Worker
from tests.server.support import small
from tests.server.support.apps import connect, running
from tests.server.support.held import hold_steps
from tests.server.support.workers import BATCH_RECOMMEND, ENCODE, RECOMMEND, SmallEngine
from tests.until import LONG, until

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

    def __init__(self, small_engine: SmallEngine, stage: str, patch: pytest.MonkeyPatch) -> None:
        self.one, self.stage = small_engine, stage
        self.sizes = SlowSizes()
        object.__setattr__(self.sizes, "on_encode", lambda: self._spend("respond"))
        small_engine.encoder.row_s = _SLOW_S if stage in {"encode", "texts"} else _QUICK_S
        small_engine.ranker.row_s = _SLOW_S if stage == "rank" else _QUICK_S
        catalogue, scoring = small_engine.engine.catalogue, small_engine.engine.scoring
        patch.setattr(catalogue, "search_many", self._slowed("search", catalogue.search_many, len))
        patch.setattr(
            catalogue,
            "resolve_filter",
            self._slowed("filter", catalogue.resolve_filter, lambda filtered: not filtered.is_empty),
        )
        patch.setattr(catalogue, "popular", self._slowed("popularity", catalogue.popular))
        patch.setattr(scoring, "terms", self._slowed("score", scoring.terms, len))

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
    small_engine, ledger = overload.one, Ledger()
    methods = recommender_methods(small_engine.services(overload.sizes))
    worker = Worker(methods, Limits(), clock=small_engine.clock, reject=reject)
    began, every_s = small_engine.clock.now, _SLOW_S * entries / times
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
                assert small_engine.clock.now < arrival + timeout_s
                ledger.good += 1
            elif isinstance(reply, Overloaded):
                ledger.refused.append(reply)
                ledger.waits_s.append(worker.load.wait_s)
                ledger.refusals_s.append(small_engine.clock.now - arrival)
            else:
                ledger.late_s.append(small_engine.clock.now - began)

        return Ticket(method, message.SerializeToString(), arrival + timeout_s, done)

    while sent < calls or worker.has_work:
        while sent < calls and began + sent * every_s <= small_engine.clock.now:
            worker.admit(ticket(sent))
            sent += 1
        if worker.has_work:
            worker.step()
        elif sent < calls:
            small_engine.clock.now = max(small_engine.clock.now, began + sent * every_s)
    ledger.seconds = small_engine.clock.now - began
    small_engine.check_unused()
    return ledger


@pytest.fixture
def small_engine(tmp_path_factory: pytest.TempPathFactory) -> SmallEngine:
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
def test_goodput_stays_at_capacity_under_overload(
    small_engine: SmallEngine, patch: pytest.MonkeyPatch, stage: str, times: float
) -> None:
    """Although the stage was quick when the engine was warmed up: what it has become is learned on the way."""
    ledger = offer(Overload(small_engine, stage, patch), times, reject)
    assert ledger.good >= 0.95 * ledger.seconds / _SLOW_S
    assert all(at < _LEARNING_S for at in ledger.late_s)
    for refusal, wait_s in list(zip(ledger.refused, ledger.waits_s, strict=True))[-100:]:
        assert refusal.retry_after == pytest.approx(_retry_s(refusal, wait_s, Limits()))
    assert max(ledger.refusals_s[-100:]) <= Limits().step_s + _SLOW_S  # no refusal waits for more than a step


@pytest.mark.parametrize("budget_s", [1.0, 3_600.0])
@pytest.mark.parametrize("stage", STAGES)
def test_retry_delay_is_the_time_until_the_queue_of_the_slow_stage_has_run(
    small_engine: SmallEngine, patch: pytest.MonkeyPatch, stage: str, budget_s: float
) -> None:
    """Refused by the budget, or by the deadline where the budget is large."""
    overload, limits = Overload(small_engine, stage, patch), Limits(budget_s=budget_s)
    rules: list[Reject] = [admit_all, reject]
    worker = Worker(
        recommender_methods(small_engine.services(overload.sizes)),
        limits,
        clock=small_engine.clock,
        reject=lambda *given: rules[0](*given),
    )
    for waiting in (0, _WAITING):  # first what the stage costs is learned
        for n in range(2 * _WAITING):
            method, message = overload.message(n)
            worker.admit(Ticket(method, message.SerializeToString(), 1e9, lambda _reply: None))
        while worker.load.requests > waiting:
            worker.step()
    del rules[0]
    refused: list[Reply] = []
    method, message = overload.message(_WAITING)
    worker.admit(Ticket(method, message.SerializeToString(), small_engine.clock.now + _TIMEOUT_S, refused.append))
    (refusal,) = refused
    assert isinstance(refusal, Overloaded)
    wait_s = worker.load.requests * _SLOW_S
    assert refusal.retry_after == pytest.approx(_retry_s(refusal, wait_s, limits), rel=0.1)
    assert ("deadline" in str(refusal)) == (budget_s > wait_s)


@pytest.mark.parametrize("stage", ["encode", "rank", "search", "filter"])
def test_goodput_of_batch_requests_stays_at_capacity_under_overload(
    small_engine: SmallEngine, patch: pytest.MonkeyPatch, stage: str
) -> None:
    ledger = offer(Overload(small_engine, stage, patch), 4.0, reject, entries=8, timeout_s=3.0)
    assert ledger.good * 8 >= 0.95 * ledger.seconds / _SLOW_S
    assert ledger.refused


@pytest.mark.parametrize("stage", STAGES)
def test_no_call_is_refused_below_capacity_when_the_stage_has_been_measured(
    small_engine: SmallEngine, patch: pytest.MonkeyPatch, stage: str
) -> None:
    overload = Overload(small_engine, stage, patch)
    assert offer(overload, 0.9, reject).good >= 0.9 * _CAPACITY_CALLS * 0.9
    again = offer(overload, 0.9, reject)
    assert (again.good, again.late_s, again.refused) == (int(0.9 * _CAPACITY_CALLS), [], [])


@pytest.mark.parametrize("stage", STAGES)
def test_without_admission_most_of_the_capacity_is_lost(
    small_engine: SmallEngine, patch: pytest.MonkeyPatch, stage: str
) -> None:
    """Negative control."""
    ledger = offer(Overload(small_engine, stage, patch), 2.0, admit_all)
    assert ledger.good < 0.5 * ledger.seconds / _SLOW_S


_ROW_S = 0.002  # of encoding a text: a step of 40 ms has about twenty


@pytest.fixture
def one_fair_share(tmp_path: Path) -> SmallEngine:
    engine = SmallEngine(small.write_bundle(tmp_path / "1"))
    engine.encoder.row_s, engine.ranker.row_s = _ROW_S, 0.0
    return engine


def send(
    one_fair_share: SmallEngine, worker: Worker, method: str, message: pb.RecommendRequest | pb.BatchRecommendRequest
) -> list[Reply]:
    replies: list[Reply] = []
    worker.admit(Ticket(method, message.SerializeToString(), one_fair_share.clock.now + 1e6, replies.append))
    return replies


def send_batch(one_fair_share: SmallEngine, worker: Worker) -> list[Reply]:
    requests = [pb.RecommendRequest(query=f"a{n}") for n in range(200)]
    return send(one_fair_share, worker, BATCH_RECOMMEND, pb.BatchRecommendRequest(requests=requests))


def single_s(one_fair_share: SmallEngine, worker: Worker) -> float:
    """Time of a single call that arrives while a step runs: what is left of the step, at most, and its answer."""
    began = one_fair_share.clock.now
    worker.step()
    replies = send(one_fair_share, worker, RECOMMEND, pb.RecommendRequest(query="b"))
    while not replies:
        worker.step()
    return one_fair_share.clock.now - began


def test_single_calls_are_hardly_delayed_by_a_batch_request(one_fair_share: SmallEngine) -> None:
    worker = one_fair_share.worker()
    alone_s = single_s(one_fair_share, worker)
    batch = send_batch(one_fair_share, worker)
    beside = [single_s(one_fair_share, worker) for _ in range(20)]
    assert not batch
    assert max(beside) <= 3 * alone_s, "a step of about its own length before it, and an entry in its own"
    while not batch:
        worker.step()


def test_batch_request_without_single_calls_has_long_steps(one_fair_share: SmallEngine) -> None:
    """Negative control: that is what a single call would wait for."""
    worker = one_fair_share.worker()
    batch, steps = send_batch(one_fair_share, worker), list[float]()
    while not batch:
        began = one_fair_share.clock.now
        worker.step()
        steps.append(one_fair_share.clock.now - began)
    assert max(steps) > 10 * _ROW_S


_SERVICE = "/swiftrec.v1.RecommenderService/"


_LISTS, _ENTRIES, _TOP_K = 64, 20, 1_000  # as many items as one call may ask for


_SINGLES = 5


def retry_s(call: object) -> float:
    """The delay of a refused call, by its RetryInfo and by gRPC's own trailer, which must agree."""
    assert isinstance(call, grpc.Call)
    assert call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    status, retry = rpc_status.from_call(call), error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(retry)
    delay_s: float = retry.retry_delay.ToTimedelta().total_seconds()
    pushback_ms = dict(call.trailing_metadata())["grpc-retry-pushback-ms"]
    assert float(pushback_ms) == pytest.approx(1e3 * delay_s, abs=1)
    return delay_s


@pytest.mark.parametrize(
    ("method", "expected_s"), [("Recommend", 2.0), ("BatchRecommend", 2.0), ("StreamRecommend", 1.0)]
)
def test_call_beyond_the_limit_gets_the_time_until_the_worker_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, expected_s: float
) -> None:
    """As the link says it; what waits for the worker says nothing of streams."""
    monkeypatch.setattr(WorkerThread, "load", Load(100, 1_000, 2.0))
    with running(tmp_path) as app, connect(app) as channel:
        limiter = app.limiters.streams if method == "StreamRecommend" else app.limiters.calls
        for _ in range(limiter.limit):
            limiter.acquire()
        call = channel.stream_stream(_SERVICE + method, None, None)(iter([b""]), timeout=LONG)
        with pytest.raises(grpc.RpcError):
            next(iter(call))
        assert retry_s(call) == expected_s


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """The worker runs no step until it is open."""
    return hold_steps(monkeypatch)


def test_batch_request_is_refused_as_a_whole_when_the_queue_is_full(tmp_path: Path, gate: threading.Event) -> None:
    requests = [pb.RecommendRequest(history=[pb.Event(item_id=f"i{n}")]) for n in range(8)]
    batch = pb.BatchRecommendRequest(requests=requests)
    with running(tmp_path, max_queue_requests=4) as app, connect(app) as channel:
        stub = RecommenderServiceStub(channel)
        first = stub.Recommend.future(requests[0], timeout=LONG)
        until(lambda: app.worker.has_work)
        lists = [stub.BatchRecommend.future(batch, timeout=LONG) for _ in range(3)]
        until(lambda: app.link._inbox.qsize() == 3)
        gate.set()
        assert first.result(LONG).items
        ended = Counter(cast("grpc.Call", call).code().name for call in lists)
        assert ended == {"OK": 1, "RESOURCE_EXHAUSTED": 2}  # what finds an empty queue is accepted
        for call in lists:
            if cast("grpc.Call", call).code() is grpc.StatusCode.OK:
                assert len(call.result(LONG).results) == len(requests)
            else:
                assert 0 < retry_s(call) < LONG


def test_single_calls_are_not_starved_by_batch_requests_for_popular_items(app: App, gate: threading.Event) -> None:
    batch = pb.BatchRecommendRequest(requests=[pb.RecommendRequest(top_k=_TOP_K)] * _ENTRIES).SerializeToString()
    with connect(app) as lists, connect(app) as singles:
        method = lists.unary_unary(_SERVICE + "BatchRecommend", None, None)  # 64 responses take long to decode
        before = app.metrics.calls.count("BatchRecommend", "OK")
        calls = [method.future(batch, timeout=LONG) for _ in range(_LISTS)]
        until(lambda: app.limiters.calls.in_use == _LISTS)
        gate.set()
        request = pb.RecommendRequest(history=[pb.Event(item_id="50")])
        for _ in range(_SINGLES):
            assert RecommenderServiceStub(singles).Recommend(request, timeout=LONG).items
        assert app.metrics.calls.count("BatchRecommend", "OK") - before < _LISTS  # the lists are not over
        seen = Counter(cast("grpc.Call", call).code().name for call in calls)
        assert set(seen) <= {"OK", "RESOURCE_EXHAUSTED"}
        assert seen["OK"] > 0
        for call in calls:
            if cast("grpc.Call", call).code() is not grpc.StatusCode.OK:
                assert 0 < retry_s(call) < LONG
