"""The thread of the worker, and large messages that are prepared in parts."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from swiftrec.server.batching.scheduler import Limits
from swiftrec.server.domain import Request
from swiftrec.server.errors import DeadlineExceeded, Overloaded, ShuttingDown
from swiftrec.server.pb.swiftrec.v1 import encoder_pb2
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from swiftrec.server.pipeline.request_state import RequestState
from swiftrec.server.ticket import Reply, Ticket
from swiftrec.server.worker.loop import WorkerThread
from swiftrec.server.worker.methods import recommender_methods
from swiftrec.server.worker.worker import Worker
from tests.server.support import small
from tests.server.support.workers import BATCH_RECOMMEND, ENCODE, RECOMMEND, SmallEngine
from tests.until import LONG

_MESSAGE = pb.RecommendRequest(query="a").SerializeToString()


class DyingWorker(Worker):
    """Has a bug that no call is to blame for."""

    def step(self) -> None:
        """Fails."""
        raise RuntimeError("an error of ours")


class Replies:
    """Replies, and a wait for them."""

    def __init__(self) -> None:
        self.all: list[Reply] = []
        self._come = threading.Semaphore(0)

    def ticket(self) -> Ticket:
        def done(reply: Reply) -> None:
            self.all.append(reply)
            self._come.release()

        return Ticket(RECOMMEND, _MESSAGE, 1e12, done)

    def wait(self, number: int) -> None:
        for _ in range(number):
            assert self._come.acquire(timeout=LONG)


@pytest.fixture
def small_engine(tmp_path: Path) -> SmallEngine:
    return SmallEngine(small.write_bundle(tmp_path / "1"))


def test_dead_thread_fails_waiting_and_new_calls_and_reports_it(small_engine: SmallEngine) -> None:
    died, replies = list[str](), Replies()
    worker = DyingWorker(recommender_methods(small_engine.services()), Limits(), clock=small_engine.clock)
    thread = WorkerThread(worker, died.append)
    for _ in range(3):
        thread.send(replies.ticket())
    thread.start()
    replies.wait(3)
    thread.send(replies.ticket())
    replies.wait(1)
    thread.stop(LONG)
    assert [type(reply) for reply in replies.all] == [ShuttingDown] * 4
    assert len(died) == 1
    small_engine.check_unused()


def test_calls_sent_before_the_stop_are_answered_except_cancelled_ones(small_engine: SmallEngine) -> None:
    replies, cancelled = Replies(), Replies()
    thread = WorkerThread(small_engine.worker())
    for _ in range(20):
        thread.send(replies.ticket())
    gone = cancelled.ticket()
    thread.send(gone)
    thread.cancel(gone)
    thread.start()
    thread.stop(LONG)
    assert [type(reply) for reply in replies.all] == [bytes] * 20
    assert cancelled.all == []
    assert thread.load == (0, 0, 0.0)
    small_engine.check_unused()


_TOKENISE_S = 0.0006  # a text; two are more than a part


_LONG_S = 1e6


_PARTS = 20  # entries of a large list


@pytest.fixture
def one_opening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmallEngine:
    """An engine that takes a while to tokenise a text."""
    engine = SmallEngine(small.write_bundle(tmp_path / "1"))
    encode = engine.engine.tokenizer.encode

    def slowly(texts: Sequence[str]) -> list[list[int]]:
        engine.clock.now += _TOKENISE_S * len(texts)
        return encode(texts)

    monkeypatch.setattr(engine.engine.tokenizer, "encode", slowly)
    return engine


def queries(number: int, entries: int) -> pb.BatchRecommendRequest:
    return pb.BatchRecommendRequest(requests=[pb.RecommendRequest(query=f"a{number}x{n}") for n in range(entries)])


def requested(
    one_opening: SmallEngine, method: str, data: bytes, timeout_s: float = _LONG_S
) -> tuple[Ticket, list[Reply]]:
    replies: list[Reply] = []
    return Ticket(method, data, one_opening.clock.now + timeout_s, replies.append), replies


def until(is_so: Callable[[], object], step: Callable[[], None]) -> int:
    """Step until it is so; returns the number of steps."""
    steps = 0
    while not is_so():
        step()
        steps += 1
        assert steps < 1_000
    return steps


def test_single_call_does_not_wait_for_large_lists(one_opening: SmallEngine) -> None:
    worker = one_opening.worker()
    lists = [requested(one_opening, BATCH_RECOMMEND, queries(n, _PARTS).SerializeToString()) for n in range(8)]
    before = one_opening.clock.now
    for ticket, _ in lists:
        worker.admit(ticket)
    assert one_opening.clock.now - before < 8 * 4 * _TOKENISE_S, "a part of each was read"
    single, replies = requested(one_opening, RECOMMEND, pb.RecommendRequest(query="b").SerializeToString())
    worker.admit(single)
    assert until(lambda: replies, worker.step) == 1
    assert not any(actual for _, actual in lists)
    until(lambda: all(actual for _, actual in lists), worker.step)
    alone = one_opening.worker()
    for ticket, (actual,) in lists:
        assert isinstance(actual, bytes)
        again, (expected,) = requested(one_opening, ticket.method, ticket.message)[0], [list[Reply]()]
        again.done = expected.append
        alone.admit(again)
        until(lambda expected=expected: expected, alone.step)  # type: ignore[misc] # one for each
        assert ids(actual) == ids(expected[0])
    one_opening.check_unused()


def ids(reply: Reply) -> list[list[str]]:
    assert isinstance(reply, bytes)
    results = pb.BatchRecommendResponse.FromString(reply).results
    return [[item.item_id for item in result.response.items] for result in results]


def test_texts_of_encode_are_tokenised_in_parts_too(one_opening: SmallEngine) -> None:
    worker, texts = one_opening.worker(), [f"a{n}" for n in range(100)]
    ticket, replies = requested(one_opening, ENCODE, encoder_pb2.EncodeRequest(texts=texts).SerializeToString())
    before = one_opening.clock.now
    worker.admit(ticket)
    assert one_opening.clock.now - before < 100 * _TOKENISE_S / 2
    until(lambda: replies, worker.step)
    assert isinstance(replies[0], bytes)
    assert encoder_pb2.EncodeResponse.FromString(replies[0]).rows == 100


@pytest.mark.parametrize("late", [False, True])
def test_message_is_not_prepared_further_when_its_call_has_ended(
    one_opening: SmallEngine, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    worker = one_opening.worker()
    ticket, replies = requested(one_opening, BATCH_RECOMMEND, queries(0, _PARTS).SerializeToString(), 4 * _TOKENISE_S)
    resolved, resolve = list[str](), one_opening.engine.resolve

    def resolve_and_leave(request: Request) -> RequestState:
        resolved.append(request.query)
        if not late and len(resolved) == 2:
            ticket.is_cancelled = True
        return resolve(request)

    monkeypatch.setattr(one_opening.engine, "resolve", resolve_and_leave)
    worker.admit(ticket)
    if late:
        one_opening.clock.now += 4 * _TOKENISE_S
        until(lambda: replies, worker.step)
        assert [type(reply) for reply in replies] == [DeadlineExceeded]
    assert len(resolved) == 2
    assert (worker.calls, worker.has_work) == (0, False)
    one_opening.check_unused()


def test_large_messages_are_refused_while_too_many_others_are_prepared(one_opening: SmallEngine) -> None:
    worker = one_opening.worker(Limits(budget_s=0.3))
    lists = [requested(one_opening, BATCH_RECOMMEND, queries(n, 100).SerializeToString()) for n in range(12)]
    for ticket, _ in lists:
        worker.admit(ticket)
    (_, accepted), *_, (_, refused) = lists
    assert isinstance(refused[0], Overloaded)
    assert 0.01 <= refused[0].retry_after < 12 * 100 * _TOKENISE_S
    assert not accepted
    assert worker.load.wait_s > 0.27, "what is not open counts as waiting"
    until(lambda: accepted, worker.step)
    assert isinstance(accepted[0], bytes)


def test_calls_in_preparation_are_refused_when_the_worker_dies(one_opening: SmallEngine) -> None:
    worker = one_opening.worker()
    ticket, replies = requested(one_opening, BATCH_RECOMMEND, queries(0, _PARTS).SerializeToString())
    worker.admit(ticket)
    worker.fail_all(Overloaded(1.0))
    assert [type(reply) for reply in replies] == [Overloaded]
    one_opening.check_unused()


def test_waiting_long_histories_use_little_memory(one_opening: SmallEngine) -> None:
    worker = one_opening.worker()
    history = [pb.Event(item_id=f"i{n % 40}") for n in range(1_000)]
    batch = pb.BatchRecommendRequest(requests=[pb.RecommendRequest(history=history)] * 20)
    ticket, replies = requested(one_opening, BATCH_RECOMMEND, batch.SerializeToString())
    tracemalloc.start()
    try:
        worker.admit(ticket)
        assert tracemalloc.get_traced_memory()[0] < 20 * 1_000 * 32, "less than objects for every event would take"
    finally:
        tracemalloc.stop()
    until(lambda: replies, worker.step)
    assert ids(replies[0]) == [ids(replies[0])[0]] * 20
