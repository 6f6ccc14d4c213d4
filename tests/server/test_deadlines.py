"""Deadlines, timeouts and cancels of every kind of client."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import grpc
import pytest
from google.rpc import code_pb2
from tritonclient.grpc import service_pb2, service_pb2_grpc

from swiftrec.benchmarks.null_server import NullSession
from swiftrec.server.app import App
from swiftrec.server.batching.admission import Load, RejectReason
from swiftrec.server.batching.scheduler import Limits
from swiftrec.server.config import ServerSettings
from swiftrec.server.errors import DeadlineExceeded, SwiftrecError
from swiftrec.server.front.waits import Exchanges, Timers
from swiftrec.server.models.bundle import Bundle
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from swiftrec.server.pb.swiftrec.v1.recommender_pb2_grpc import RecommenderServiceStub
from swiftrec.server.pipeline.recommender import Recommender
from swiftrec.server.pipeline.request_state import TextState
from swiftrec.server.telemetry.metrics import BundleRecorder, Metrics
from swiftrec.server.ticket import Reply, Ticket
from swiftrec.server.worker.call import WorkerCall
from swiftrec.server.worker.worker import Worker
from tests.server.support.gated import Bench, bench
from tests.until import LONG, until

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
    ("remaining", "timeout", "seconds"),
    [(1.0, 0.5, 0.5), (1.0, 3.0, 1.0), (9.0, 8.0, 5.0), (5.0, 3.0, 3.0), (5.0, 8.0, 5.0), (5.0, 1e12, 5.0)],
)
def test_inference_takes_the_earliest_of_client_request_and_default(
    app: App, remaining: float, timeout: float, seconds: float
) -> None:
    request = service_pb2.ModelInferRequest(model_name="encoder")
    request.inputs.add(name="TEXT", datatype="BYTES", shape=(1, 1)).contents.bytes_contents.append(b"x")
    request.parameters["timeout"].int64_param = int(timeout * 1e6)
    replies: list[Reply] = []
    now = time.monotonic()
    ticket = Ticket(
        "/inference.GRPCInferenceService/ModelInfer",
        request.SerializeToString(),
        now + min(remaining, 5.0),  # as `Exchanges` does it
        replies.append,
    )
    work = app._worker_methods[ticket.method](ticket, now)
    assert list(work.prepare()) == [1.0]
    work.release()
    assert ticket.deadline == pytest.approx(now + seconds)


def test_expired_call_is_answered_once_and_cancelled_in_the_worker() -> None:
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


def test_expired_request_is_refused_and_never_runs(app: App) -> None:
    replies, is_answered = list[bytes | SwiftrecError](), threading.Event()

    def done(reply: Reply) -> None:
        replies.append(reply)
        is_answered.set()

    with app.registry.lease() as engine:
        before = engine.recorder.models["ranker"].snapshot()
        data = pb.RecommendRequest(query="a good western").SerializeToString()
        app.link.send(Ticket(_RECOMMEND, data, time.monotonic() - 1, done))
        assert is_answered.wait(LONG)
        after = engine.recorder.models["ranker"].snapshot()
    assert [type(reply) for reply in replies] == [DeadlineExceeded]
    assert (after.success, after.executions) == (before.success, before.executions)


def test_server_answers_after_cancelled_calls(recommender: RecommenderServiceStub) -> None:
    request = pb.RecommendRequest(query="a good western")
    for _ in range(50):
        future = recommender.Recommend.future(request, timeout=10)
        future.cancel()  # type: ignore[no-untyped-call]
    assert len(recommender.Recommend(request, timeout=10).items) == 10


def test_call_without_a_deadline_is_answered(recommender: RecommenderServiceStub) -> None:
    assert recommender.Recommend(pb.RecommendRequest(query="a good western")).items


_QUERY = pb.RecommendRequest(query="a good western")


_DEFAULT_S, _LONG = 10.0, 30.0  # of the app


Ends = list[tuple[float, Ticket]]


Ask = Callable[[grpc.Channel, float | None, float | None], object]


def unary(channel: grpc.Channel, timeout: float | None, _own: float | None) -> object:
    return RecommenderServiceStub(channel).Recommend(_QUERY, timeout=timeout)


def listed(channel: grpc.Channel, timeout: float | None, _own: float | None) -> object:
    other = pb.RecommendRequest(query="a good comedy", version=1)  # of another group, which is answered after the first
    return RecommenderServiceStub(channel).BatchRecommend(
        pb.BatchRecommendRequest(requests=[_QUERY, other]), timeout=timeout
    )


def streamed(channel: grpc.Channel, timeout: float | None, _own: float | None) -> object:
    message = pb.StreamRecommendRequest(request=_QUERY)
    return list(RecommenderServiceStub(channel).StreamRecommend(iter([message]), timeout=timeout))


def _tensor(timeout_s: float | None) -> service_pb2.ModelInferRequest:
    request = service_pb2.ModelInferRequest(model_name="encoder")
    tensor = request.inputs.add(name="TEXT", datatype="BYTES", shape=(1, 1))
    tensor.contents.bytes_contents.append(b"a good western")
    if timeout_s is not None:
        request.parameters["timeout"].int64_param = round(1e6 * timeout_s)
    return request


def inferred(channel: grpc.Channel, timeout: float | None, timeout_s: float | None) -> object:
    return service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(_tensor(timeout_s), timeout=timeout)


def inferred_in_a_stream(channel: grpc.Channel, timeout: float | None, timeout_s: float | None) -> object:
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    return list(stub.ModelStreamInfer(iter([_tensor(timeout_s)]), timeout=timeout))


@pytest.fixture
def ends(app: App, monkeypatch: pytest.MonkeyPatch) -> Ends:
    """The tickets of the calls, each with the time when it was sent."""
    sent: Ends = []
    send = app.link.send

    def noted(ticket: Ticket) -> None:
        sent.append((time.monotonic(), ticket))
        send(ticket)

    monkeypatch.setattr(app.link, "send", noted)
    return sent


def seconds_of(ends: Ends) -> list[float]:
    """Seconds from its beginning to the deadline of each call."""
    return [ticket.deadline - began for began, ticket in ends]


@pytest.mark.parametrize("ask", [unary, listed, streamed, inferred, inferred_in_a_stream])
@pytest.mark.parametrize(("timeout", "seconds"), [(5.0, 5.0), (60.0, _DEFAULT_S), (None, _DEFAULT_S)])
def test_client_timeout_applies_only_when_below_the_default(
    app: App, ends: Ends, ask: Ask, timeout: float | None, seconds: float
) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{app.port}") as channel:
        ask(channel, timeout, None)
    assert seconds_of(ends) == [pytest.approx(seconds, abs=2.0)]  # one for the whole list, too


@pytest.mark.parametrize("ask", [inferred, inferred_in_a_stream])
@pytest.mark.parametrize(
    ("timeout", "timeout_s", "seconds"), [(7.0, 2.0, 2.0), (60.0, 5.0, 5.0), (5.0, 60.0, 5.0), (60.0, 60.0, _DEFAULT_S)]
)
def test_request_timeout_applies_when_it_is_the_earliest(
    app: App, ends: Ends, ask: Ask, timeout: float, timeout_s: float, seconds: float
) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{app.port}") as channel:
        ask(channel, timeout, timeout_s)
    assert seconds_of(ends) == [pytest.approx(seconds, abs=2.0)]


@pytest.fixture(scope="module")
def held(bundle: Bundle) -> Iterator[Bench]:
    """A server that gives each call .3 s, and whose encoder never answers."""
    with bench(bundle, default_timeout_ms=300) as served:
        served.encoder.close()
        yield served


@pytest.mark.parametrize("ask", [unary, listed, inferred])
def test_call_ends_at_the_default_timeout_when_its_deadline_is_later(held: Bench, ask: Ask) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{held.app.port}") as channel, pytest.raises(grpc.RpcError) as late:
        ask(channel, _LONG, _LONG)
    assert isinstance(late.value, grpc.Call)
    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert late.value.trailing_metadata()  # by the server: the client's own timer has no metadata to give


def test_each_message_of_a_stream_expires_alone_and_the_stream_continues(held: Bench) -> None:
    def messages() -> Iterator[pb.StreamRecommendRequest]:
        yield from [pb.StreamRecommendRequest(request=_QUERY)] * 2
        assert has_expired.wait(_LONG)
        yield pb.StreamRecommendRequest()

    has_expired = threading.Event()
    replies: Any = held.recommender.StreamRecommend(messages(), timeout=_LONG)
    assert [next(replies).result.error.code for _ in range(2)] == [code_pb2.DEADLINE_EXCEEDED] * 2
    held.encoder.open()
    until(lambda: not held.app.worker.has_work and held.app.worker.calls == 0)
    has_expired.set()
    assert [bool(reply.result.response.items) for reply in replies] == [True]
    held.encoder.close()


def test_each_message_of_an_inference_stream_expires_alone(held: Bench) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{held.app.port}") as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        replies = list(stub.ModelStreamInfer(iter([_tensor(None), _tensor(_LONG)]), timeout=_LONG))
    assert [reply.error_message for reply in replies] == ["Request timeout expired"] * 2


@pytest.mark.parametrize("is_stream", [False, True])
def test_queued_call_ends_after_the_step_in_which_its_timeout_passed(bundle: Bundle, is_stream: bool) -> None:
    with bench(bundle, max_batch_size=1) as served:
        held, before = served.hold(), served.ask("before it")
        served.until_calls(2)
        if is_stream:
            late: Any = served.inference.ModelStreamInfer(iter([_tensor(0.05)]), timeout=_LONG)
        else:
            late = served.inference.ModelInfer.future(_tensor(0.05), timeout=_LONG)
        served.until_sent(2)
        served.admit()  # both; the next step holds one of them
        passed = time.monotonic() + 0.05
        until(lambda: time.monotonic() > passed)
        served.encoder.open()
        if is_stream:
            assert next(late).error_message == "Request timeout expired"
        else:
            assert late.exception(_LONG).code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert late.exception().details() == "Request timeout expired"
        assert held.result(_LONG).rows == before.result(_LONG).rows == 1


_NUMBER, _LONG_WAIT_S = 10_000, 60.0


class Ticking:
    """An engine whose steps take simulated time; it keeps the deadlines that had passed when a request ran."""

    def __init__(self) -> None:
        self.now = 0.0
        self.late: list[float] = []
        self.ran = 0
        self.recorder = BundleRecorder(Metrics(), "ticking", 1)

    def clock(self) -> float:
        return self.now

    def run(self, batch: Sequence[TextState]) -> None:
        deadlines = [cast("Ticket", state.call).deadline for state in batch]
        self.late += [deadline for deadline in deadlines if deadline <= self.now]
        self.ran += len(batch)
        self.now += 0.01 * len(batch)


def works_of(engine: Ticking, rng: random.Random) -> type[WorkerCall]:
    class OneText(WorkerCall):
        """A call with one text."""

        def prepare(self) -> tuple[()]:
            state = TextState([[1] * rng.randint(1, 60)])
            state.tokens, state.cost_s = len(state.rows[0]), 0.001
            self.add(cast("Recommender", engine), [state], "encoder", rng.randint(1, 9))
            return ()

        def respond(self, now: float) -> bytes:
            return b"done"

    return OneText


def everything(load: Load, tokens: int, run_s: float, time_left_s: float, limits: Limits) -> RejectReason | None:
    """Admission that lets everything in, so that deadlines pass in the queue."""
    return None


def test_of_10_000_random_deadlines_no_expired_one_runs() -> None:
    engine, rng, replies = Ticking(), random.Random(7), list[Reply]()
    methods = {"Encode": works_of(engine, rng)}
    worker = Worker(methods, Limits(batch_size=16), clock=engine.clock, reject=everything)
    for _ in range(_NUMBER):
        worker.admit(Ticket("Encode", b"", rng.uniform(0.001, 0.02 * _NUMBER), replies.append))
    while worker.has_work:
        worker.step()
    expired = sum(isinstance(reply, DeadlineExceeded) for reply in replies)
    answered = replies.count(b"done")
    assert engine.late == []
    assert answered + expired == _NUMBER == len(replies)
    assert answered <= engine.ran  # a deadline may pass during the step
    assert min(engine.ran, expired) > _NUMBER / 10  # both kinds were there
    model = engine.recorder.models["encoder"]
    assert (worker.load, worker.calls, model.queue_requests, model.queue_tokens) == (Load(0, 0, 0.0), 0, 0, 0)


def test_10_000_random_cancels_leave_every_gauge_at_0(bundle: Bundle) -> None:
    settings = ServerSettings(
        bundle=[bundle.folder],
        port=0,
        metrics_port=0,
        sessions=2,
        max_calls=512,
        max_streams=_NUMBER,  # a cancel frees the client's place in a connection before the server has heard of it
        _cli_parse_args=[],
    )
    app, rng = App(settings, open_session=lambda path, *_: NullSession.of(path, 0.002)), random.Random(7)
    app.start()
    in_flight = threading.Semaphore(200)
    ended_as: list[str] = []
    try:
        with grpc.insecure_channel(f"127.0.0.1:{app.port}") as channel:
            stub = RecommenderServiceStub(channel)
            for n in range(_NUMBER):
                assert in_flight.acquire(timeout=_LONG_WAIT_S)
                request = pb.RecommendRequest(query=f"text {n % 3_000}", history=[pb.Event(text=f"seen {n}")])
                call = stub.Recommend.future(request, timeout=rng.choice([0.001, 0.01, 30.0]))

                def ended(answered: grpc.Call) -> None:
                    ended_as.append(answered.code().name)  # at once: threads of gRPC's and this one call it
                    in_flight.release()

                call.add_done_callback(ended)  # type: ignore[arg-type] # a call and a future
                if rng.random() < 0.5:
                    call.cancel()  # type: ignore[no-untyped-call]
            for _ in range(200):
                assert in_flight.acquire(timeout=_LONG_WAIT_S)
        with app.registry.lease() as engine:

            def held() -> list[int]:
                models = engine.recorder.models.values()
                waiting = [number for model in models for number in (model.queue_requests, model.queue_tokens)]
                return [app.limiters.calls.in_use, app.worker.calls, app.worker.load.requests, *waiting]

            # A client sees its cancel before the server does, which may still run the last calls.
            until(lambda: not any(held()), held)
    finally:
        app.stop()
    assert not any(held())
    codes = Counter(ended_as)
    assert set(codes) <= {"OK", "CANCELLED", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"}
    assert sum(codes.values()) == _NUMBER
    assert min(codes["OK"], codes["CANCELLED"], codes["DEADLINE_EXCEEDED"]) > 100
