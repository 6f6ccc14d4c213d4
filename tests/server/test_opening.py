"""Large messages are opened a part at a time: other calls come in between, and what is not wanted is not read on."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from swiftrec.server.batching.scheduler import Limits
from swiftrec.server.domain import Request
from swiftrec.server.errors import DeadlineExceeded, Overloaded
from swiftrec.server.pb.swiftrec.v1 import encoder_pb2
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from swiftrec.server.pipeline.request_state import RequestState
from swiftrec.server.ticket import Reply, Ticket
from tests.server import small
from tests.server.workers import BATCH_RECOMMEND, ENCODE, RECOMMEND, SmallEngine

_TOKENISE_S = 0.0006  # a text; two are more than a part
_LONG_S = 1e6
_PARTS = 20  # entries of a large list


@pytest.fixture
def one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmallEngine:
    """An engine that takes a while to tokenise a text."""
    made = SmallEngine(small.write_bundle(tmp_path / "1"))
    encode = made.engine.tokenizer.encode

    def slowly(texts: Sequence[str]) -> list[list[int]]:
        made.clock.now += _TOKENISE_S * len(texts)
        return encode(texts)

    monkeypatch.setattr(made.engine.tokenizer, "encode", slowly)
    return made


def queries(number: int, entries: int) -> pb.BatchRecommendRequest:
    return pb.BatchRecommendRequest(requests=[pb.RecommendRequest(query=f"a{number}x{n}") for n in range(entries)])


def asked(one: SmallEngine, method: str, data: bytes, timeout_s: float = _LONG_S) -> tuple[Ticket, list[Reply]]:
    replies: list[Reply] = []
    return Ticket(method, data, one.clock.now + timeout_s, replies.append), replies


def until(is_so: Callable[[], object], step: Callable[[], None]) -> int:
    """Step until it is so; how many steps it took."""
    steps = 0
    while not is_so():
        step()
        steps += 1
        assert steps < 1_000
    return steps


def test_single_call_does_not_wait_for_large_lists(one: SmallEngine) -> None:
    worker = one.worker()
    lists = [asked(one, BATCH_RECOMMEND, queries(n, _PARTS).SerializeToString()) for n in range(8)]
    before = one.clock.now
    for ticket, _ in lists:
        worker.admit(ticket)
    assert one.clock.now - before < 8 * 4 * _TOKENISE_S, "a part of each was read"
    single, replies = asked(one, RECOMMEND, pb.RecommendRequest(query="b").SerializeToString())
    worker.admit(single)
    assert until(lambda: replies, worker.step) == 1
    assert not any(found for _, found in lists)
    until(lambda: all(found for _, found in lists), worker.step)
    alone = one.worker()
    for ticket, (found,) in lists:
        assert isinstance(found, bytes)
        again, (expected,) = asked(one, ticket.method, ticket.message)[0], [list[Reply]()]
        again.done = expected.append
        alone.admit(again)
        until(lambda expected=expected: expected, alone.step)  # type: ignore[misc] # one for each
        assert ids(found) == ids(expected[0])
    one.check_unused()


def ids(reply: Reply) -> list[list[str]]:
    assert isinstance(reply, bytes)
    results = pb.BatchRecommendResponse.FromString(reply).results
    return [[item.item_id for item in result.response.items] for result in results]


def test_texts_of_encode_are_opened_in_parts_too(one: SmallEngine) -> None:
    worker, texts = one.worker(), [f"a{n}" for n in range(100)]
    ticket, replies = asked(one, ENCODE, encoder_pb2.EncodeRequest(texts=texts).SerializeToString())
    before = one.clock.now
    worker.admit(ticket)
    assert one.clock.now - before < 100 * _TOKENISE_S / 2
    until(lambda: replies, worker.step)
    assert isinstance(replies[0], bytes)
    assert encoder_pb2.EncodeResponse.FromString(replies[0]).rows == 100


@pytest.mark.parametrize("late", [False, True])
def test_message_is_not_read_on_once_nobody_waits(
    one: SmallEngine, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    worker = one.worker()
    ticket, replies = asked(one, BATCH_RECOMMEND, queries(0, _PARTS).SerializeToString(), 4 * _TOKENISE_S)
    resolved, resolve = list[str](), one.engine.resolve

    def resolve_and_leave(request: Request) -> RequestState:
        resolved.append(request.query)
        if not late and len(resolved) == 2:
            ticket.is_cancelled = True
        return resolve(request)

    monkeypatch.setattr(one.engine, "resolve", resolve_and_leave)
    worker.admit(ticket)
    if late:
        one.clock.now += 4 * _TOKENISE_S
        until(lambda: replies, worker.step)
        assert [type(reply) for reply in replies] == [DeadlineExceeded]
    assert len(resolved) == 2
    assert (worker.calls, worker.has_work) == (0, False)
    one.check_unused()


def test_large_messages_are_refused_while_too_many_others_are_read(one: SmallEngine) -> None:
    worker = one.worker(Limits(budget_s=0.3))
    lists = [asked(one, BATCH_RECOMMEND, queries(n, 100).SerializeToString()) for n in range(12)]
    for ticket, _ in lists:
        worker.admit(ticket)
    (_, accepted), *_, (_, refused) = lists
    assert isinstance(refused[0], Overloaded)
    assert 0.01 <= refused[0].retry_after < 12 * 100 * _TOKENISE_S
    assert not accepted
    assert worker.load.wait_s > 0.27, "what is not open counts as waiting"
    until(lambda: accepted, worker.step)
    assert isinstance(accepted[0], bytes)


def test_calls_whose_messages_are_read_are_refused_when_the_worker_dies(one: SmallEngine) -> None:
    worker = one.worker()
    ticket, replies = asked(one, BATCH_RECOMMEND, queries(0, _PARTS).SerializeToString())
    worker.admit(ticket)
    worker.refuse_all(Overloaded(1.0))
    assert [type(reply) for reply in replies] == [Overloaded]
    one.check_unused()


def test_long_histories_that_wait_keep_what_is_needed_only(one: SmallEngine) -> None:
    worker = one.worker()
    history = [pb.Event(item_id=f"i{n % 40}") for n in range(1_000)]
    batch = pb.BatchRecommendRequest(requests=[pb.RecommendRequest(history=history)] * 20)
    ticket, replies = asked(one, BATCH_RECOMMEND, batch.SerializeToString())
    tracemalloc.start()
    try:
        worker.admit(ticket)
        assert tracemalloc.get_traced_memory()[0] < 20 * 1_000 * 32, "less than objects for every event would take"
    finally:
        tracemalloc.stop()
    until(lambda: replies, worker.step)
    assert ids(replies[0]) == [ids(replies[0])[0]] * 20
