"""Limits of messages and connections."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2 as triton
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from swiftrec.server.app import App
from swiftrec.server.config import ServerSettings
from swiftrec.server.errors import ConfigError
from swiftrec.server.models.bundle import Bundle
from swiftrec.server.pb.swiftrec.v1 import encoder_pb2
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from swiftrec.server.pb.swiftrec.v1.encoder_pb2 import EncodeRequest
from swiftrec.server.pb.swiftrec.v1.encoder_pb2_grpc import EncoderServiceStub
from swiftrec.server.pb.swiftrec.v1.recommender_pb2_grpc import RecommenderServiceStub
from swiftrec.server.settings_reader import read_settings
from tests.server.support.http2 import Peer, refused_stream
from tests.server.support.secure import CHECK, ENCODE, OK, UNAVAILABLE, code, connected, outcome, serving
from tests.until import LONG, until


def test_message_and_metadata_over_the_limit_are_refused(bundle: Bundle) -> None:
    with serving(bundle, max_message_bytes=2_048, max_metadata_bytes=2_048) as app, connected(app) as channel:
        small = encoder_pb2.EncodeRequest(texts=["x" * 1_000]).SerializeToString()
        large = encoder_pb2.EncodeRequest(texts=["x" * 1_000] * 9).SerializeToString()
        assert outcome(channel, ENCODE, [("x-fill", "x" * 1_000)], small) == (OK, "")
        assert outcome(channel, ENCODE, [], large)[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert outcome(channel, ENCODE, [("x-fill", "x" * 2_000)], small)[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert outcome(channel, ENCODE, [], small) == (OK, "")


def test_call_beyond_the_stream_limit_waits_without_affecting_other_connections(bundle: Bundle) -> None:
    with serving(bundle, max_streams=2) as app, connected(app) as channel, connected(app) as other:
        stub = health_pb2_grpc.HealthStub(channel)
        held = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(2)]
        assert all(next(call).status == health_pb2.HealthCheckResponse.SERVING for call in held)
        third = stub.Check.future(health_pb2.HealthCheckRequest(), timeout=20)
        assert code(other, CHECK) is OK
        assert not third.done()
        held[0].cancel()
        assert third.result().status == health_pb2.HealthCheckResponse.SERVING
        held[1].cancel()


def test_streams_sent_beyond_the_limit_are_refused_by_grpc(bundle: Bundle) -> None:
    """As a client sends them that has not read the limit yet; it sees UNAVAILABLE."""
    with serving(bundle, max_streams=2) as app, connected(app) as other, Peer(app.port) as peer:
        for n in range(5):
            peer.call(2 * n + 1, CHECK)
        seen = peer.ping()
        assert [stream for stream in (1, 3, 5, 7, 9) if refused_stream(stream) in seen] == [5, 7, 9]
        assert code(other, CHECK) is OK


def test_connections_over_the_limit_are_closed(bundle: Bundle) -> None:
    with serving(bundle, max_connections=1) as app, connected(app) as channel:
        assert code(channel, CHECK) is OK
        with connected(app) as second:
            assert code(second, CHECK) is UNAVAILABLE
        assert code(channel, CHECK) is OK


def test_connection_that_pings_endlessly_is_closed(app: App) -> None:
    settings, ping = b"\0\0\0\4\0\0\0\0\0", b"\0\0\x08\6\0\0\0\0\0" + bytes(8)
    with socket.create_connection(("127.0.0.1", app.port), timeout=20) as peer:
        peer.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings + ping * 10)
        answer = b"".join(iter(lambda: peer.recv(4_096), b""))
    assert struct.pack(">I", 11) + b"too_many_pings" in answer  # ENHANCE_YOUR_CALM, RFC 9113 section 7


_LIMIT = 16_384


_TEXTS = 64  # whose vectors have 128 numbers of four bytes


OUT_OF_RANGE, RESOURCE_EXHAUSTED = grpc.StatusCode.OUT_OF_RANGE, grpc.StatusCode.RESOURCE_EXHAUSTED


INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT


_UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]


@pytest.fixture
def limited_app(bundle: Bundle, each_front: None) -> Iterator[App]:
    """A server whose responses may have 16 kB, with each adapter."""
    with serving(bundle, max_response_bytes=_LIMIT, max_message_bytes=_LIMIT) as running:
        yield running


@contextmanager
def refused(code: grpc.StatusCode, *said: str) -> Iterator[None]:
    with pytest.raises(grpc.RpcError) as caught:
        yield
    assert isinstance(caught.value, grpc.Call)
    details = caught.value.details() or ""
    assert caught.value.code() is code, details
    assert all(words in details for words in said), details


def infer(model: str, tensor: str, rows: int, top_k: int = 10) -> triton.ModelInferRequest:
    request = triton.ModelInferRequest(model_name=model, id="7")
    request.inputs.add(name=tensor, datatype="BYTES", shape=(rows, 1)).contents.bytes_contents.extend(
        f"film {n}".encode() for n in range(rows)
    )
    if tensor == "QUERY":
        request.inputs.add(name="K", datatype="INT32", shape=(rows, 1)).contents.int_contents.extend([top_k] * rows)
    return request


def batch(entries: int, top_k: int) -> pb.BatchRecommendRequest:
    requests = [pb.RecommendRequest(query=f"war {n}", top_k=top_k) for n in range(entries)]
    return pb.BatchRecommendRequest(requests=requests)


Ask = Callable[[grpc.Channel, int], object]


_UNARY: dict[str, Ask] = {
    "Recommend": lambda channel, n: RecommenderServiceStub(channel).Recommend(
        pb.RecommendRequest(query="war", top_k=10 * n), timeout=LONG
    ),
    "BatchRecommend": lambda channel, n: RecommenderServiceStub(channel).BatchRecommend(batch(n, 10), timeout=LONG),
    "Encode": lambda channel, n: EncoderServiceStub(channel).Encode(
        EncodeRequest(texts=[f"text {k}" for k in range(n)]), timeout=LONG
    ),
    "ModelInfer": lambda channel, n: GRPCInferenceServiceStub(channel).ModelInfer(
        infer("encoder", "TEXT", n), timeout=LONG
    ),
    "ModelInfer of the recommender": lambda channel, n: GRPCInferenceServiceStub(channel).ModelInfer(
        infer("recommender", "QUERY", n, top_k=50), timeout=LONG
    ),
}


@pytest.mark.parametrize("name", _UNARY)
def test_response_over_the_limit_is_refused_with_a_remedy(limited_app: App, name: str) -> None:
    ask, method = _UNARY[name], name.partition(" ")[0]
    with connected(limited_app) as channel:
        with refused(OUT_OF_RANGE, "the response has at least ", f"--max-response-bytes ({_LIMIT})", "fewer entries"):
            ask(channel, _TEXTS)
        assert ask(channel, 2)
    until(lambda: [limited_app.metrics.calls.count(method, code) for code in ("OUT_OF_RANGE", "OK")] == [1, 1])


def test_stream_reports_a_response_over_the_limit_in_order_and_continues(limited_app: App) -> None:
    requested = [2, 900, 3]
    with connected(limited_app) as channel:
        messages = (pb.StreamRecommendRequest(request=pb.RecommendRequest(query="war", top_k=k)) for k in requested)
        results = [entry.result for entry in RecommenderServiceStub(channel).StreamRecommend(messages, timeout=LONG)]
        assert [len(result.response.items) for result in results] == [2, 0, 3]
        assert results[1].error.code == OUT_OF_RANGE.value[0]
        assert f"--max-response-bytes ({_LIMIT})" in results[1].error.message
        for model, tensor in (("encoder", "TEXT"), ("recommender", "QUERY")):
            requests = (infer(model, tensor, rows, top_k=40) for rows in (1, _TEXTS, 2))
            replies = list(GRPCInferenceServiceStub(channel).ModelStreamInfer(requests, timeout=LONG))
            assert [reply.infer_response.id for reply in replies] == ["7"] * 3
            assert [bool(reply.error_message) for reply in replies] == [False, True, False]
            assert f"--max-response-bytes ({_LIMIT})" in replies[1].error_message


def test_response_of_known_size_is_refused_before_the_models_run(limited_app: App) -> None:
    def executions() -> int:
        with limited_app.registry.lease() as engine:
            return sum(model.snapshot().executions for model in engine.recorder.models.values())

    with connected(limited_app) as channel:
        before = executions()
        for name in ("Encode", "ModelInfer", "ModelInfer of the recommender"):
            with refused(OUT_OF_RANGE):
                _UNARY[name](channel, _TEXTS)
        assert executions() == before


def test_error_of_a_plain_client_names_the_limit_that_was_exceeded(bundle: Bundle) -> None:
    with serving(bundle, max_items=64_000) as limited_app, connected(limited_app) as channel:
        with refused(OUT_OF_RANGE, "--max-response-bytes (4194304)", "grpc.max_receive_message_length"):
            RecommenderServiceStub(channel).BatchRecommend(batch(64, 1_000), timeout=LONG)
        assert len(RecommenderServiceStub(channel).BatchRecommend(batch(16, 1_000), timeout=LONG).results) == 16


def test_large_response_is_sent_without_a_limit_when_the_client_raised_its_own(bundle: Bundle) -> None:
    with (
        serving(bundle, max_response_bytes=0, max_items=64_000) as limited_app,
        connected(limited_app) as plain,
        grpc.insecure_channel(f"127.0.0.1:{limited_app.port}", _UNLIMITED) as channel,
    ):
        answer = RecommenderServiceStub(channel).BatchRecommend(batch(64, 1_000), timeout=LONG)
        assert answer.ByteSize() > 4_194_304
        with refused(RESOURCE_EXHAUSTED):  # by the client's own library: what the limit is for
            RecommenderServiceStub(plain).BatchRecommend(batch(64, 1_000), timeout=LONG)


def events_of(entries: int, events: int) -> pb.BatchRecommendRequest:
    history = [pb.Event(item_id=str(n)) for n in range(events)]
    return pb.BatchRecommendRequest(requests=[pb.RecommendRequest(history=history, top_k=1)] * entries)


def infer_events(rows: int, events: int) -> triton.ModelInferRequest:
    request = triton.ModelInferRequest(model_name="recommender")
    contents = request.inputs.add(name="HISTORY", datatype="BYTES", shape=(rows, events)).contents
    contents.bytes_contents.extend(str(n).encode() for n in range(rows * events))
    return request


def test_small_requests_with_large_responses_are_refused_before_anything_runs(bundle: Bundle) -> None:
    many, triton_many = batch(256, 1_000), infer("recommender", "QUERY", 256, top_k=1_000)
    with serving(bundle, max_response_bytes=0) as limited_app, connected(limited_app) as channel:
        ours, theirs = RecommenderServiceStub(channel), GRPCInferenceServiceStub(channel)
        with refused(INVALID_ARGUMENT, "requests: asks for 256000 items in all", "--max-items (20000)"):
            ours.BatchRecommend(many, timeout=LONG)
        with refused(INVALID_ARGUMENT, "requests: has 256000 events in all", "--max-events (20000)"):
            ours.BatchRecommend(events_of(256, 1_000), timeout=LONG)
        with refused(INVALID_ARGUMENT, "input 'K' asks for 256000 items in all", "--max-items (20000)"):
            theirs.ModelInfer(triton_many, timeout=LONG)
        with refused(INVALID_ARGUMENT, "input 'HISTORY' has 25600 events in all", "--max-events (20000)"):
            theirs.ModelInfer(infer_events(256, 100), timeout=LONG)
        (reply,) = theirs.ModelStreamInfer(iter([triton_many]), timeout=LONG)
        assert "--max-items (20000)" in reply.error_message
        with limited_app.registry.lease() as engine:
            assert [model.snapshot().executions for model in engine.recorder.models.values()] == [0, 0]
        assert len(ours.BatchRecommend(batch(20, 1_000), timeout=LONG).results) == 20
        assert len(ours.BatchRecommend(events_of(200, 100), timeout=LONG).results) == 200
        assert theirs.ModelInfer(infer_events(200, 100), timeout=LONG).outputs


def test_request_over_the_limit_is_refused_with_a_remedy(limited_app: App) -> None:
    large = EncodeRequest(texts=["x" * 1_000] * 20)
    said = (f"the request has {large.ByteSize()} bytes", f"--max-message-bytes ({_LIMIT})", "fewer entries")
    with connected(limited_app) as channel:
        for compression in (None, grpc.Compression.Gzip):
            with refused(OUT_OF_RANGE, *said):
                EncoderServiceStub(channel).Encode(large, timeout=LONG, compression=compression)
        message = pb.StreamRecommendRequest(request=pb.RecommendRequest(query="x" * 2 * _LIMIT))
        with refused(OUT_OF_RANGE, "--max-message-bytes"):
            list(RecommenderServiceStub(channel).StreamRecommend(iter([message]), timeout=LONG))
        assert EncoderServiceStub(channel).Encode(EncodeRequest(texts=["x"]), timeout=LONG).rows == 1
    until(lambda: limited_app.metrics.calls.count("Encode", "OUT_OF_RANGE") == 2)
    until(lambda: limited_app.metrics.calls.count("StreamRecommend", "OUT_OF_RANGE") == 1)


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_huge_request_is_stopped_by_grpc_before_it_is_parsed(limited_app: App, compression: grpc.Compression) -> None:
    bomb = EncodeRequest(texts=["\0" * 4 * _LIMIT])
    with connected(limited_app) as channel:
        with refused(RESOURCE_EXHAUSTED):
            EncoderServiceStub(channel).Encode(bomb, timeout=LONG, compression=compression)
        assert EncoderServiceStub(channel).Encode(EncodeRequest(texts=["x"]), timeout=LONG).rows == 1


@pytest.mark.parametrize("value", ["1", "1023", "-1"])
def test_limit_that_leaves_no_room_for_an_error_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match="--max-response-bytes"):
        read_settings(ServerSettings, ["--bundle", "x", "--max-response-bytes", value])
