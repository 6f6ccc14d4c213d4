"""The worker: each call is answered once or cancelled, independently of the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swiftrec.server.batching.scheduler import Limits
from swiftrec.server.catalogue.blend import ScoreTerms, ScoringInput
from swiftrec.server.catalogue.catalogue import ScoredItems
from swiftrec.server.errors import SwiftrecError
from swiftrec.server.pb.swiftrec.v1 import encoder_pb2
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from swiftrec.server.status import code_of
from swiftrec.server.ticket import Reply, Ticket
from swiftrec.server.worker.methods import RecommendCall, StreamRecommendCall, recommender_methods
from swiftrec.server.worker.worker import Worker
from tests.server.support import small
from tests.server.support.workers import (
    BATCH_RECOMMEND,
    ENCODE,
    RECOMMEND,
    STREAM_RECOMMEND,
    Row,
    SmallEngine,
    answer_alone,
)

OK, INVALID, LATE, NOT_FOUND, FULL, INTERNAL = 0, 3, 4, 5, 8, 13
_BUG_TOP_K = 13  # a search for this many items meets an error of ours
_STREAMS = (STREAM_RECOMMEND, "/bug/fail")


class BuggyOpen(RecommendCall):
    """An error of ours when the call is admitted, after it holds an engine."""

    def prepare(self) -> Iterable[float]:
        """Fails."""
        super().prepare()
        raise KeyError("an error of ours")


class BuggyRespond(RecommendCall):
    """An error of ours in the response."""

    def respond(self, now: float) -> bytes:
        """Fails."""
        raise KeyError("an error of ours")


class BuggyFail(StreamRecommendCall):
    """A bug of ours while an error response is written."""

    def write_error(self, error: SwiftrecError) -> Reply:
        """Fails."""
        raise KeyError("an error of ours")


def query(letter: str, n: int, top_k: int = 3) -> pb.RecommendRequest:
    return pb.RecommendRequest(query=f"{letter}{n}", top_k=top_k, history=[pb.Event(item_id=f"i{n % 40}")])


def streamed(letter: str, n: int) -> pb.StreamRecommendRequest:
    return pb.StreamRecommendRequest(request=query(letter, n))


def listed(n: int) -> pb.BatchRecommendRequest:
    """Entries of every kind."""
    return pb.BatchRecommendRequest(
        requests=[
            query("a", n),
            query("q", n),  # the encoder fails on it
            query("b", n, top_k=0),
            query("x", n),  # an error of ours
            query("c", n, top_k=_BUG_TOP_K),  # another one
            query("d", n),
            pb.RecommendRequest(query=f"e{n}", bundle="another"),
        ]
    )


def texts(letters: str, n: int) -> encoder_pb2.EncodeRequest:
    return encoder_pb2.EncodeRequest(texts=[f"{letter}{n}" for letter in letters])


# What a call is -> its method, its message, and the code that it ends with.
KINDS: dict[str, tuple[str, Callable[[int], Message], int]] = {
    "good": (RECOMMEND, partial(query, "a"), OK),
    "popular": (RECOMMEND, lambda _: pb.RecommendRequest(top_k=2), OK),
    "list": (BATCH_RECOMMEND, listed, OK),
    "texts": (ENCODE, partial(texts, "fgh"), OK),
    "message of a stream": (STREAM_RECOMMEND, partial(streamed, "i"), OK),
    "invalid": (RECOMMEND, partial(query, "a", top_k=0), INVALID),
    "unknown bundle": (RECOMMEND, lambda _: pb.RecommendRequest(query="a", bundle="another"), NOT_FOUND),
    "the encoder fails": (RECOMMEND, partial(query, "q"), INTERNAL),
    "the encoder answers NaN": (RECOMMEND, partial(query, "w"), INTERNAL),
    "one text fails": (ENCODE, partial(texts, "jqk"), INTERNAL),
    "message fails": (STREAM_RECOMMEND, partial(streamed, "q"), INTERNAL),
    "our error in a stage": (RECOMMEND, partial(query, "x"), INTERNAL),
    "our error in the search": (RECOMMEND, partial(query, "l", top_k=_BUG_TOP_K), INTERNAL),
    "our error at admission": ("/bug/open", partial(query, "m"), INTERNAL),
    "our error in the response": ("/bug/respond", partial(query, "n"), INTERNAL),
    "our error while an error is written": ("/bug/fail", partial(streamed, "q"), INTERNAL),
}


@pytest.fixture(scope="module", params=[0, 10_000_000], ids=["no cache", "cache"])
def small_engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallEngine]:
    """An engine with faults: of the encoder for texts with q and w, of ours for those with x and for a top_k of 13."""
    engine = SmallEngine(small.write_bundle(tmp_path_factory.mktemp("small") / "1"), cache_bytes=request.param)
    engine.encoder.row_s = 1 / 256
    engine.encoder.fails, engine.encoder.nans = {engine.row("q")[1]}, {engine.row("w")[1]}
    terms, search = engine.engine.scoring.terms, engine.engine.catalogue.search_many

    def buggy_terms(requested: Sequence[ScoringInput]) -> list[ScoreTerms]:
        if any(known.query.startswith("x") for known in requested):
            raise KeyError("an error of ours")
        return terms(requested)

    def buggy_search(*arguments: list[object]) -> list[ScoredItems]:
        if _BUG_TOP_K in arguments[2]:
            raise KeyError("an error of ours")
        return search(*arguments)  # type: ignore[arg-type] # as they came

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine.engine.scoring, "terms", buggy_terms)
        patch.setattr(engine.engine.catalogue, "search_many", buggy_search)
        yield engine


def worker_of(small_engine: SmallEngine, limits: Limits | None = None) -> Worker:
    """A worker with the methods of swiftrec.v1 and the faulty ones."""
    services = small_engine.services()
    methods = recommender_methods(services) | {
        "/bug/open": partial(BuggyOpen, services),
        "/bug/respond": partial(BuggyRespond, services),
        "/bug/fail": partial(BuggyFail, services),
    }
    return Worker(methods, limits or Limits(), clock=small_engine.clock)


def outcome(method: str, reply: Reply) -> tuple[int, object]:
    """The code and what else a client reads, but for the times."""
    if isinstance(reply, SwiftrecError):
        return code_of(reply), str(reply)
    if method == ENCODE:
        return OK, reply
    if method == BATCH_RECOMMEND:
        message = pb.BatchRecommendResponse.FromString(reply)
        for result in message.results:
            result.response.ClearField("timings")
        return OK, message.SerializeToString()
    result = pb.BatchRecommendResult()
    if method in _STREAMS:
        result = pb.StreamRecommendResponse.FromString(reply).result
    else:
        result.response.MergeFromString(reply)
    if result.HasField("error"):
        return result.error.code, result.error.message
    result.response.ClearField("timings")
    return OK, result.SerializeToString()


@dataclass(eq=False)
class Call:
    """A call that was sent, and what became of it."""

    kind: str
    n: int
    deadline: float
    is_done_buggy: bool = False
    replies: list[tuple[Reply, float]] = field(default_factory=list)
    waited_for: int = 0  # requests that waited when it was admitted

    @property
    def method(self) -> str:
        return KINDS[self.kind][0]

    @property
    def message(self) -> bytes:
        return KINDS[self.kind][1](self.n).SerializeToString()


class Drive:
    """A worker under way."""

    def __init__(self, small_engine: SmallEngine, limits: Limits | None = None) -> None:
        self.one, self.worker = small_engine, worker_of(small_engine, limits)
        self.calls: list[tuple[Call, Ticket]] = []
        self._flagged: list[Ticket] = []
        self._in_step: list[Ticket] = []
        small_engine.encoder.on_run = self._on_run
        self._may_run: set[Row] = set()
        self._ran_late: set[Row] = set()  # rows of calls that had been cancelled or had expired when their step began

    def send(self, kind: str, timeout_s: float, *, is_done_buggy: bool = False) -> tuple[Call, Ticket]:
        now = self.one.clock.now
        call = Call(kind, len(self.calls), now + timeout_s, is_done_buggy, waited_for=self.worker.load.requests)

        def done(reply: Reply) -> None:
            call.replies.append((reply, self.one.clock.now))
            if is_done_buggy:
                raise RuntimeError("an error of ours")

        ticket = Ticket(call.method, call.message, call.deadline, done)
        self.calls.append((call, ticket))
        self.worker.admit(ticket)
        return call, ticket

    def flag(self, number: int) -> None:
        """A front cancels a call; the worker hears of it later."""
        if self.calls:
            ticket = self.calls[number % len(self.calls)][1]
            ticket.is_cancelled = True
            self._flagged.append(ticket)

    def hear(self) -> None:
        """The worker takes the cancels from its inbox."""
        for ticket in self._flagged:
            self.worker.admit(ticket)
        self._flagged = []

    def flag_in_step(self, number: int) -> None:
        """A front cancels a call while the encoder runs next."""
        if self.calls:
            self._in_step.append(self.calls[number % len(self.calls)][1])

    def step(self) -> None:
        if self.worker.has_work:
            now = self.one.clock.now
            live = [call for call, ticket in self.calls if not ticket.is_cancelled and call.deadline > now]
            self._may_run = {self.one.row(text) for call in live for text in words(call.message, call.method)}
            self.worker.step()

    def finish(self) -> None:
        self.hear()
        while self.worker.has_work:
            self.step()
            self.hear()
        assert not self._ran_late
        assert tuple(self.worker.load) == (0, 0, 0.0)
        assert self.worker.calls == 0
        recorders = self.one.engine.recorder.models.values()
        assert [(each.queue_requests, each.queue_tokens) for each in recorders] == [(0, 0)] * 2
        self.one.encoder.on_run = lambda _rows: None
        self.one.check_unused()

    def _on_run(self, rows: Sequence[Row]) -> None:
        self._ran_late |= {*rows} - self._may_run
        for ticket in self._in_step:
            ticket.is_cancelled = True
            self._flagged.append(ticket)
        self._in_step = []


def words(message: bytes, method: str) -> list[str]:
    """The texts of a call."""
    if method == ENCODE:
        return list(encoder_pb2.EncodeRequest.FromString(message).texts)
    if method == BATCH_RECOMMEND:
        return [each.query for each in pb.BatchRecommendRequest.FromString(message).requests]
    if method in _STREAMS:
        return [pb.StreamRecommendRequest.FromString(message).request.query]
    return [pb.RecommendRequest.FromString(message).query]


def check(drive: Drive) -> None:
    """Every call met its own fate: what it would have met alone, or one that has to do with its time."""
    alone = worker_of(drive.one)
    for call, ticket in drive.calls:
        assert len(call.replies) == 1 or (ticket.is_cancelled and not call.replies), call
        for reply, at in call.replies:
            got = outcome(call.method, reply)
            if got[0] == LATE:
                assert call.deadline <= at
            elif got[0] == FULL:
                assert call.waited_for
            else:
                assert got == outcome(call.method, answer_alone(alone, call.method, call.message))
                assert got[0] != OK or call.deadline > at


_STEPS = st.one_of(
    st.tuples(st.just("send"), st.sampled_from(list(KINDS)), st.sampled_from([0.0, 0.01, 0.03, 0.1, 1e6])),
    st.tuples(st.just("send, its done raises"), st.sampled_from(list(KINDS)), st.just(1e6)),
    st.tuples(st.sampled_from(["step", "hear"]), st.just(""), st.just(0.0)),
    st.tuples(st.sampled_from(["flag", "flag in step"]), st.just(""), st.integers(0, 100).map(float)),
    st.tuples(st.just("wait"), st.just(""), st.sampled_from([0.005, 0.02])),
)
_LIMITS = st.sampled_from(
    [Limits(), Limits(batch_size=3), Limits(queue_requests=4), Limits(queue_tokens=30), Limits(budget_s=0.02)]
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(steps=st.lists(_STEPS, min_size=4, max_size=40), limits=_LIMITS)
def test_each_call_is_answered_once_or_cancelled_independently_of_others(
    small_engine: SmallEngine, steps: list[tuple[str, str, float]], limits: Limits
) -> None:
    drive = Drive(small_engine, limits)
    for step, kind, number in steps:
        if step.startswith("send"):
            drive.send(kind, number, is_done_buggy=step != "send")
        elif step == "step":
            drive.step()
        elif step == "hear":
            drive.hear()
        elif step == "wait":
            small_engine.clock.now += number
        else:
            (drive.flag if step == "flag" else drive.flag_in_step)(int(number))
    drive.finish()
    check(drive)


@pytest.mark.parametrize("kind", KINDS)
def test_single_call_has_the_expected_outcome(small_engine: SmallEngine, kind: str) -> None:
    """What the test above compares with."""
    method, message, code = KINDS[kind]
    reply = answer_alone(worker_of(small_engine), method, message(7).SerializeToString())
    got, said = outcome(method, reply)
    assert got == code
    assert code != INTERNAL or said in {
        "internal error",
        "the model failed on this input",
        "the model returns numbers that are not finite for this input",
    }
    small_engine.check_unused()


def test_entries_of_a_batch_request_fail_independently(small_engine: SmallEngine) -> None:
    reply = answer_alone(worker_of(small_engine), BATCH_RECOMMEND, listed(7).SerializeToString())
    assert isinstance(reply, bytes)
    results = pb.BatchRecommendResponse.FromString(reply).results
    codes = [result.error.code for result in results]
    assert codes == [OK, INTERNAL, INVALID, INTERNAL, INTERNAL, OK, NOT_FOUND]
    for index, letter in ((0, "a"), (5, "d")):
        single = answer_alone(worker_of(small_engine), RECOMMEND, query(letter, 7).SerializeToString())
        assert isinstance(single, bytes)
        assert results[index].response.items == pb.RecommendResponse.FromString(single).items
    small_engine.check_unused()


def test_cancel_before_admission_leaves_no_state(small_engine: SmallEngine) -> None:
    replies: list[Reply] = []
    worker = worker_of(small_engine)
    ticket = Ticket(RECOMMEND, query("a", 1).SerializeToString(), 1e9, replies.append)
    ticket.is_cancelled = True
    worker.admit(ticket)
    worker.admit(ticket)
    assert (replies, worker.calls, worker.has_work) == ([], 0, False)
    small_engine.check_unused()


def test_cancel_removes_work_that_has_not_run(small_engine: SmallEngine) -> None:
    drive = Drive(small_engine, Limits(batch_size=2))
    drive.send("list", 1e6)
    drive.step()
    assert drive.worker.has_work
    drive.flag(0)
    drive.hear()
    assert not drive.worker.has_work
    drive.finish()
    check(drive)


def test_call_that_expires_between_steps_ends_immediately(small_engine: SmallEngine) -> None:
    drive = Drive(small_engine, Limits(batch_size=2))
    call, _ = drive.send("list", 1.0)
    drive.step()
    small_engine.clock.now += 1.0
    drive.step()
    assert not drive.worker.has_work
    assert [outcome(call.method, reply)[0] for reply, _ in call.replies] == [LATE]
    drive.finish()


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(waiting=st.integers(1, 30), tokens=st.integers(10, 400), sends=st.integers(1, 60))
def test_queue_is_bounded(small_engine: SmallEngine, waiting: int, tokens: int, sends: int) -> None:
    drive = Drive(small_engine, Limits(queue_requests=waiting, queue_tokens=tokens))
    for _ in range(sends):
        drive.send("good", 1e6)
        assert drive.worker.load.requests <= waiting
        assert drive.worker.load.tokens <= tokens
    refused = [call for call, _ in drive.calls if call.replies]
    assert bool(refused) == (sends > min(waiting, drive.worker.load.requests))
    drive.finish()
    check(drive)


def test_more_urgent_calls_run_first(small_engine: SmallEngine) -> None:
    order, worker = list[int](), worker_of(small_engine, Limits(batch_size=1))
    for priority in (9, 5, 1):
        message = pb.RecommendRequest(query="a", priority=priority).SerializeToString()
        worker.admit(Ticket(RECOMMEND, message, 1e9, lambda _reply, priority=priority: order.append(priority)))  # type: ignore[misc]
    while worker.has_work:
        worker.step()
    assert order == [1, 5, 9]
    small_engine.check_unused()


def test_idle_worker_accepts_calls_regardless_of_the_prediction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_engine = SmallEngine(small.write_bundle(tmp_path / "1"))  # which learns here that its models take no time
    for model in (small_engine.encoder, small_engine.ranker):
        monkeypatch.setattr(model, "row_s", 0.0)  # it was predicted to take milliseconds
    reply = answer_alone(
        worker_of(small_engine), RECOMMEND, query("a", 900).SerializeToString(), small_engine.clock.now + 1e-6
    )
    assert isinstance(reply, bytes)


def test_step_includes_all_waiting_requests(small_engine: SmallEngine) -> None:
    """A free worker waits for nothing, and what came while a step ran goes into the next one together."""
    drive = Drive(small_engine)
    for calls in (1, 7, 3):
        for _ in range(calls):
            drive.send("message of a stream", 1e6)
        drive.worker.step()
        assert not drive.worker.has_work
    assert [len(call.replies) for call, _ in drive.calls] == [1] * 11
    small_engine.check_unused()


def test_cancelled_call_frees_space_in_the_queue(small_engine: SmallEngine) -> None:
    drive = Drive(small_engine, Limits(queue_requests=2))
    calls = [drive.send("good", 1e6)[0] for _ in range(3)]
    assert [len(call.replies) for call in calls] == [0, 0, 1]
    drive.flag(0)
    drive.hear()
    late, _ = drive.send("good", 1e6)
    assert not late.replies
    drive.finish()
    check(drive)


def test_predicted_wait_beyond_the_budget_is_refused(small_engine: SmallEngine) -> None:
    drive = Drive(small_engine, Limits(budget_s=0.5, queue_requests=10**6))
    for _ in range(1_000):
        drive.send("good", 1e6)
    each_s = drive.worker.load.wait_s / drive.worker.load.requests
    assert 0.4 < drive.worker.load.wait_s <= 0.5 + each_s
    refused = [outcome(call.method, reply)[0] for call, _ in drive.calls for reply, _ in call.replies]
    assert refused == [FULL] * (1_000 - drive.worker.load.requests)
    for call, ticket in drive.calls:
        if not call.replies:
            ticket.is_cancelled = True
            drive.worker.admit(ticket)
    drive.finish()
