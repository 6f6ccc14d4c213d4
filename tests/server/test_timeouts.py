"""Whichever way a request comes: the earliest of client's deadline, its own timeout and the default counts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.rpc import code_pb2
from tritonclient.grpc import service_pb2, service_pb2_grpc

from swiftrec.server.app import App
from swiftrec.server.models.bundle import Bundle
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from swiftrec.server.pb.swiftrec.v1.recommender_pb2_grpc import RecommenderServiceStub
from swiftrec.server.ticket import Ticket
from tests.server.test_isolation import Bench, bench
from tests.until import until

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
    asked = pb.StreamRecommendRequest(request=_QUERY)
    return list(RecommenderServiceStub(channel).StreamRecommend(iter([asked]), timeout=timeout))


def _tensor(own: float | None) -> service_pb2.ModelInferRequest:
    request = service_pb2.ModelInferRequest(model_name="encoder")
    tensor = request.inputs.add(name="TEXT", datatype="BYTES", shape=(1, 1))
    tensor.contents.bytes_contents.append(b"a good western")
    if own is not None:
        request.parameters["timeout"].int64_param = round(1e6 * own)
    return request


def inferred(channel: grpc.Channel, timeout: float | None, own: float | None) -> object:
    return service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(_tensor(own), timeout=timeout)


def inferred_in_a_stream(channel: grpc.Channel, timeout: float | None, own: float | None) -> object:
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    return list(stub.ModelStreamInfer(iter([_tensor(own)]), timeout=timeout))


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
def test_client_asks_for_less_than_the_default_but_not_for_more(
    app: App, ends: Ends, ask: Ask, timeout: float | None, seconds: float
) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{app.port}") as channel:
        ask(channel, timeout, None)
    assert seconds_of(ends) == [pytest.approx(seconds, abs=2.0)]  # one for the whole list, too


@pytest.mark.parametrize("ask", [inferred, inferred_in_a_stream])
@pytest.mark.parametrize(
    ("timeout", "own", "seconds"), [(7.0, 2.0, 2.0), (60.0, 5.0, 5.0), (5.0, 60.0, 5.0), (60.0, 60.0, _DEFAULT_S)]
)
def test_timeout_of_a_request_counts_where_it_is_the_earliest(
    app: App, ends: Ends, ask: Ask, timeout: float, own: float, seconds: float
) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{app.port}") as channel:
        ask(channel, timeout, own)
    assert seconds_of(ends) == [pytest.approx(seconds, abs=2.0)]


@pytest.fixture(scope="module")
def held(bundle: Bundle) -> Iterator[Bench]:
    """A server that gives each call .3 s, and whose encoder never answers."""
    with bench(bundle, default_timeout_ms=300) as one:
        one.encoder.close()
        yield one


@pytest.mark.parametrize("ask", [unary, listed, inferred])
def test_patient_client_is_told_after_the_default(held: Bench, ask: Ask) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{held.app.port}") as channel, pytest.raises(grpc.RpcError) as late:
        ask(channel, _LONG, _LONG)
    assert isinstance(late.value, grpc.Call)
    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert late.value.trailing_metadata()  # by the server: the client's own timer has no metadata to give


def test_patient_stream_is_told_of_each_message_and_lives_on(held: Bench) -> None:
    def asked() -> Iterator[pb.StreamRecommendRequest]:
        yield from [pb.StreamRecommendRequest(request=_QUERY)] * 2
        assert is_told.wait(_LONG)
        yield pb.StreamRecommendRequest()

    is_told = threading.Event()
    replies: Any = held.recommender.StreamRecommend(asked(), timeout=_LONG)
    assert [next(replies).result.error.code for _ in range(2)] == [code_pb2.DEADLINE_EXCEEDED] * 2
    held.encoder.open()
    until(lambda: not held.app.worker.has_work and held.app.worker.calls == 0)
    is_told.set()
    assert [bool(reply.result.response.items) for reply in replies] == [True]
    held.encoder.close()


def test_patient_client_of_the_inference_stream_is_told_of_each_message(held: Bench) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{held.app.port}") as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        replies = list(stub.ModelStreamInfer(iter([_tensor(None), _tensor(_LONG)]), timeout=_LONG))
    assert [reply.error_message for reply in replies] == ["Request timeout expired"] * 2


@pytest.mark.parametrize("is_stream", [False, True])
def test_queued_call_ends_with_the_step_in_which_its_own_timeout_passed(bundle: Bundle, is_stream: bool) -> None:
    with bench(bundle, max_batch_jobs=1) as one:
        held, before = one.hold(), one.ask("before it")
        one.until_calls(2)
        if is_stream:
            late: Any = one.inference.ModelStreamInfer(iter([_tensor(0.05)]), timeout=_LONG)
        else:
            late = one.inference.ModelInfer.future(_tensor(0.05), timeout=_LONG)
        until(lambda: one.app.link._inbox.qsize() == 2)
        one.admit()  # both; the next step holds one of them
        passed = time.monotonic() + 0.05
        until(lambda: time.monotonic() > passed)
        one.encoder.open()
        if is_stream:
            assert next(late).error_message == "Request timeout expired"
        else:
            assert late.exception(_LONG).code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert late.exception().details() == "Request timeout expired"
        assert held.result(_LONG).rows == before.result(_LONG).rows == 1
