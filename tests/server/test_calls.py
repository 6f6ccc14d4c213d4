"""A call's own time: deadlines, clients that go, calls without a deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tritonclient.grpc import service_pb2

from swiftrec.server.app import App
from swiftrec.server.batching.admission import Load
from swiftrec.server.errors import DeadlineExceeded, SwiftrecError
from swiftrec.server.front.waits import Exchanges, Timers
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from swiftrec.server.pb.swiftrec.v1.recommender_pb2_grpc import RecommenderServiceStub
from swiftrec.server.ticket import Reply, Ticket
from tests.until import LONG

_RECOMMEND = "/swiftrec.v1.RecommenderService/Recommend"


class KeepingLink:
    """A worker that keeps what it is sent and answers nothing."""

    load = Load(0, 0, 0.0)

    def __init__(self) -> None:
        self.sent: list[Ticket] = []
        self.cancelled: list[Ticket] = []

    def send(self, ticket: Ticket, /) -> None:
        self.sent.append(ticket)

    def cancel(self, ticket: Ticket, /) -> None:
        self.cancelled.append(ticket)


@contextmanager
def exchanges(link: KeepingLink, default_timeout_s: float = 5.0) -> Iterator[Exchanges]:
    timers = Timers()
    timers.start()
    yield Exchanges(link, timers, lambda _ticket, error: error, default_timeout_s)
    timers.stop()


@pytest.mark.parametrize(("remaining", "seconds"), [(None, 5.0), (9e18, 5.0), (1.0, 1.0), (60.0, 5.0)])
def test_call_takes_the_clients_deadline_or_an_earlier_default(remaining: float | None, seconds: float) -> None:
    link, before = KeepingLink(), time.monotonic()
    with exchanges(link) as front:
        front.send(_RECOMMEND, b"", remaining, lambda _reply: None, []).cancel()
    assert before + seconds <= link.sent[0].deadline <= time.monotonic() + seconds


@pytest.mark.parametrize(
    ("remaining", "asked", "seconds"),
    [(1.0, 0.5, 0.5), (1.0, 3.0, 1.0), (9.0, 8.0, 5.0), (5.0, 3.0, 3.0), (5.0, 8.0, 5.0), (5.0, 1e12, 5.0)],
)
def test_inference_takes_the_earliest_of_client_request_and_default(
    app: App, remaining: float, asked: float, seconds: float
) -> None:
    request = service_pb2.ModelInferRequest(model_name="encoder")
    request.inputs.add(name="TEXT", datatype="BYTES", shape=(1, 1)).contents.bytes_contents.append(b"x")
    request.parameters["timeout"].int64_param = int(asked * 1e6)
    replies: list[Reply] = []
    now = time.monotonic()
    ticket = Ticket(
        "/inference.GRPCInferenceService/ModelInfer",
        request.SerializeToString(),
        now + min(remaining, 5.0),  # as `Exchanges` does it
        replies.append,
    )
    work = app._worker_methods[ticket.method](ticket, now)
    assert list(work.open()) == [1.0]
    work.release()
    assert ticket.deadline == pytest.approx(now + seconds)


def test_expired_call_is_answered_once_and_the_worker_is_told() -> None:
    link, replies, has_reply = KeepingLink(), list[Reply](), threading.Event()

    def on_reply(reply: Reply) -> None:
        replies.append(reply)
        has_reply.set()

    with exchanges(link) as front:
        front.send(_RECOMMEND, b"", 0.01, on_reply, [])
        assert has_reply.wait(LONG)
        link.sent[0].done(b"too late")
    assert [type(reply) for reply in replies] == [DeadlineExceeded]
    assert link.cancelled == link.sent


def test_cancelled_call_is_not_answered() -> None:
    link, replies = KeepingLink(), list[Reply]()
    with exchanges(link) as front:
        exchange = front.send(_RECOMMEND, b"", LONG, replies.append, [])
        exchange.cancel()
        link.sent[0].done(b"too late")
        exchange.cancel()
    assert replies == []
    assert link.cancelled == link.sent


def test_late_request_is_refused_and_never_run(app: App) -> None:
    replies, is_answered = list[bytes | SwiftrecError](), threading.Event()

    def done(reply: Reply) -> None:
        replies.append(reply)
        is_answered.set()

    with app.registry.use() as engine:
        before = engine.recorder.models["ranker"].snapshot()
        data = pb.RecommendRequest(query="a good western").SerializeToString()
        app.link.send(Ticket(_RECOMMEND, data, time.monotonic() - 1, done))
        assert is_answered.wait(LONG)
        after = engine.recorder.models["ranker"].snapshot()
    assert [type(reply) for reply in replies] == [DeadlineExceeded]
    assert (after.success, after.executions) == (before.success, before.executions)


def test_cancelled_calls_leave_the_server_answering(recommender: RecommenderServiceStub) -> None:
    request = pb.RecommendRequest(query="a good western")
    for _ in range(50):
        future = recommender.Recommend.future(request, timeout=10)
        future.cancel()  # type: ignore[no-untyped-call]
    assert len(recommender.Recommend(request, timeout=10).items) == 10


def test_call_without_a_deadline_is_answered(recommender: RecommenderServiceStub) -> None:
    assert recommender.Recommend(pb.RecommendRequest(query="a good western")).items
