"""Request ids, the access log and every metric of a real server."""

from __future__ import annotations

import logging
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.grpc import service_pb2

from swiftrec.server.app import App
from swiftrec.server.front import grpc_adapter
from swiftrec.server.models.bundle import Bundle
from swiftrec.server.pb.swiftrec.v1 import encoder_pb2
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from swiftrec.server.pb.swiftrec.v1.recommender_pb2 import Event, RecommendRequest
from tests.files import put
from tests.server.support.gated import bench, code, refused_of
from tests.server.support.secure import CHECK, ENCODE, TOKEN, WATCH, bearer, connected, serving
from tests.server.test_open_inference import text_input
from tests.until import LONG, until

_RECOMMEND = "/swiftrec.v1.RecommenderService/Recommend"


_QUERY = pb.RecommendRequest(query="a good western")


_UNARY: dict[str, tuple[str, Message]] = {
    "small": (_RECOMMEND, _QUERY),
    "large": (_RECOMMEND, pb.RecommendRequest(query="w", history=[pb.Event(text="a western " * 60)] * 8)),
    "popular": (_RECOMMEND, pb.RecommendRequest()),
    "list": ("/swiftrec.v1.RecommenderService/BatchRecommend", pb.BatchRecommendRequest(requests=[_QUERY] * 3)),
    "encode": (ENCODE, encoder_pb2.EncodeRequest(texts=["a good western"])),
    "infer": ("/inference.GRPCInferenceService/ModelInfer", text_input(b"a good western")),
    "live": ("/inference.GRPCInferenceService/ServerLive", service_pb2.ServerLiveRequest()),
    "health": (CHECK, health_pb2.HealthCheckRequest()),
}


_STREAMS: dict[str, tuple[str, Message]] = {
    "recommend": ("/swiftrec.v1.RecommenderService/StreamRecommend", pb.StreamRecommendRequest(request=_QUERY)),
    "infer": ("/inference.GRPCInferenceService/ModelStreamInfer", text_input(b"a good western")),
    "reflect": (
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest(list_services=""),
    ),
}


def returned(call: grpc.Call) -> str:
    """The id in a finished call's trailing metadata."""
    (actual,) = [value for key, value in call.trailing_metadata() if key == "x-request-id"]
    return str(actual)


def unary(channel: grpc.Channel, name: str, *metadata: tuple[str, str | bytes]) -> str:
    method, message = _UNARY[name]
    ask = channel.unary_unary(method, None, None)
    _, call = ask.with_call(message.SerializeToString(), timeout=20, metadata=metadata)
    return returned(call)


@pytest.fixture(scope="module", params=["grpc.server", "grpc.aio"])
def served(request: pytest.FixtureRequest, app: App, bundle: Bundle) -> Iterator[grpc.Channel]:
    """Channels to servers with each adapter."""
    if request.param == "grpc.server":
        with connected(app) as channel:
            yield channel
        return
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:  # the server looks when it is made; the shared one goes on
            patch.setattr(grpc_adapter, "_private", None)
            other = stack.enter_context(serving(bundle))
        yield stack.enter_context(connected(other))


@pytest.mark.parametrize("name", sorted(_UNARY))
def test_response_has_the_request_id_of_the_client_or_a_new_one(served: grpc.Channel, name: str) -> None:
    assert unary(served, name, ("x-request-id", "mine 7")) == "mine 7"
    first, second = unary(served, name), unary(served, name)
    assert len(first) == len(second) == 16
    assert first != second
    assert unary(served, name, ("x-request-id", "x" * 100)) == "x" * 64


@pytest.mark.parametrize("name", sorted(_STREAMS))
def test_stream_ends_with_its_request_id(served: grpc.Channel, name: str) -> None:
    method, message = _STREAMS[name]
    data = message.SerializeToString()
    call: Any = served.stream_stream(method, None, None)(
        iter([data, data]), timeout=20, metadata=(("x-request-id", "flow"),)
    )
    assert len(list(call)) == 2
    assert returned(call) == "flow"


def test_rejection_has_its_request_id(served: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        served.unary_unary(_RECOMMEND, None, None)(b"\xff", timeout=20, metadata=(("x-request-id", "bad"),))
    assert isinstance(caught.value, grpc.Call)
    assert returned(caught.value) == "bad"


def test_calls_with_and_without_a_token_have_a_request_id(bundle: Bundle, tmp_path: Path) -> None:
    tokens = put(tmp_path / "tokens", TOKEN.encode())
    with serving(bundle, token_file=tokens) as app, connected(app) as channel:
        assert unary(channel, "health", ("x-request-id", "probe")) == "probe"
        assert unary(channel, "small", ("x-request-id", "mine"), *bearer(TOKEN)) == "mine"
        with pytest.raises(grpc.RpcError) as caught:
            unary(channel, "small", ("x-request-id", "denied"))
    assert isinstance(caught.value, grpc.Call)
    assert returned(caught.value) == "denied"


_PRIVATE = "what a user wrote"


_REFUSED: list[tuple[str, Message, str, str]] = [
    (_RECOMMEND, pb.RecommendRequest(top_k=0), "must be in 1..1000, got 0", "top_k"),
    (
        _RECOMMEND,
        pb.RecommendRequest(history=[pb.Event(text=_PRIVATE * 200)]),
        "at most 2000 characters",
        "history[0].text",
    ),
    (_RECOMMEND, pb.RecommendRequest(query=f"\0{_PRIVATE}"), "must not contain a NUL character", "query"),
    (
        _RECOMMEND,
        pb.RecommendRequest(filter=pb.Filter(any_of=[pb.AttributeValues(name=_PRIVATE, values=[_PRIVATE])])),
        "unknown attribute",
        "filter.any_of[0].name",
    ),
    (_RECOMMEND, pb.RecommendRequest(bundle=_PRIVATE), "no such bundle, version or model is loaded", ""),
    (ENCODE, encoder_pb2.EncodeRequest(), "must have 1..256 entries, got 0", "texts"),
    (
        "/inference.GRPCInferenceService/ModelInfer",
        text_input(_PRIVATE.encode(), name=_PRIVATE),
        "an input or parameter is wrong",
        "",
    ),
    (
        "/inference.GRPCInferenceService/ModelInfer",
        text_input(f"\0{_PRIVATE}".encode()),
        "an input or parameter is wrong",
        "TEXT",
    ),
]


@pytest.mark.parametrize(("method", "message", "reason", "field"), _REFUSED)
def test_log_line_of_a_rejected_call_has_the_reason_and_nothing_of_the_request(
    channel: grpc.Channel, caplog: pytest.LogCaptureFixture, method: str, message: Message, reason: str, field: str
) -> None:
    with logged(caplog) as line:
        with pytest.raises(grpc.RpcError):
            channel.unary_unary(method, None, None)(
                message.SerializeToString(), timeout=20, metadata=(("x-request-id", "why"),)
            )
        fields = line()
    assert fields["request_id"] == "why"
    assert fields["reason"].startswith(reason)
    assert fields.get("field", "") == field
    assert _PRIVATE not in str(fields)


def test_log_line_of_an_answered_call_has_no_reason(channel: grpc.Channel, caplog: pytest.LogCaptureFixture) -> None:
    with logged(caplog) as line:
        unary(channel, "encode", ("x-request-id", "fine"))
        fields = line()
    assert "reason" not in fields


@pytest.mark.parametrize("name", sorted(_STREAMS))
def test_stream_writes_one_log_line(channel: grpc.Channel, caplog: pytest.LogCaptureFixture, name: str) -> None:
    method, message = _STREAMS[name]
    with logged(caplog) as line:
        list(channel.stream_stream(method, None, None)(iter([message.SerializeToString()]), timeout=20))
        fields = line()
    assert (fields["method"], fields["code"]) == (method, "OK")


def test_cancelled_watch_writes_a_log_line(channel: grpc.Channel, caplog: pytest.LogCaptureFixture) -> None:
    with logged(caplog) as line:
        watching: Any = channel.unary_stream(WATCH, None, None)(b"", timeout=20, metadata=(("x-request-id", "w"),))
        next(watching)
        watching.cancel()
        fields = line()
    assert (fields["method"], fields["code"], fields["request_id"]) == (WATCH, "CANCELLED", "w")
    assert fields["reason"] == "the call was cancelled"


@pytest.mark.parametrize("method", [_RECOMMEND, WATCH])
def test_call_without_a_request_has_a_request_id_and_a_log_line(
    channel: grpc.Channel, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    with logged(caplog) as line:
        with pytest.raises(grpc.RpcError) as caught:
            list(channel.stream_stream(method, None, None)(iter(()), timeout=20, metadata=(("x-request-id", "no"),)))
        fields = line()
    assert isinstance(caught.value, grpc.Call)
    assert returned(caught.value) == fields["request_id"] == "no"
    assert fields["code"] == caught.value.code().name
    assert fields["reason"] == "the request is missing, or did not arrive in time"


def test_denied_call_has_a_log_line(bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tokens = put(tmp_path / "tokens", TOKEN.encode())
    for method, name in ((_RECOMMEND, _RECOMMEND), (f"/{_PRIVATE}/x", "unknown")):
        with serving(bundle, token_file=tokens) as app, connected(app) as channel, logged(caplog) as line:
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary(method, None, None)(
                    b"", timeout=20, metadata=(("x-request-id", "no"), *bearer(f"{TOKEN}x"))
                )
            fields = line()
        assert isinstance(caught.value, grpc.Call)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert (fields["method"], fields["code"], fields["request_id"]) == (name, "UNAUTHENTICATED", "no")
        assert fields["reason"] == "no valid token"
        assert TOKEN not in str(fields)


def test_evicted_watch_without_a_token_has_a_request_id_and_a_log_line(
    bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokens = put(tmp_path / "tokens", TOKEN.encode())
    with serving(bundle, token_file=tokens, max_calls=8) as app, connected(app) as channel:  # one in eight
        watch = channel.unary_stream(WATCH, None, None)
        older: Any = watch(b"", timeout=60, metadata=(("x-request-id", "full"),))
        next(older)
        with logged(caplog) as line:
            newer: Any = watch(b"", timeout=60)
            next(newer)
            with pytest.raises(grpc.RpcError) as caught:
                list(older)
            fields = line()
        newer.cancel()
    assert isinstance(caught.value, grpc.Call)
    assert returned(caught.value) == fields["request_id"] == "full"
    assert fields["code"] == "RESOURCE_EXHAUSTED"
    assert fields["reason"] == "the server is full"


@contextmanager
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], dict[str, Any]]]:
    """Log calls; gives a function that waits for the only line and returns its fields."""

    def lines() -> list[dict[str, Any]]:
        return [
            vars(record)["fields"] for record in list(caplog.records) if record.name == "swiftrec.server.front.outcomes"
        ]

    def line() -> dict[str, Any]:
        until(lambda: bool(lines()))
        (fields,) = lines()
        return fields

    caplog.clear()
    with caplog.at_level(logging.DEBUG, logger="swiftrec.server.front.outcomes"):
        yield line


_STEPS = ("tokenise", "encode", "rank", "retrieve", "total")


_MODELS = ("encoder", "ranker")


_HISTOGRAMS = ("swiftrec_queue_seconds", "swiftrec_batch_size", "swiftrec_batch_tokens", "swiftrec_padding_ratio")


class Page:
    """What /metrics says now."""

    def __init__(self, app: App) -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{app.metrics_port}/metrics", timeout=LONG) as page:
            families = list(text_string_to_metric_families(page.read().decode()))
        self._samples = [sample for family in families for sample in family.samples]

    def __call__(self, name: str, **labels: str) -> float:
        """The sum of the samples of that name whose labels are these and maybe more."""
        actual = [
            sample.value for sample in self._samples if sample.name == name and labels.items() <= sample.labels.items()
        ]
        assert actual, f"no {name} with {labels}"
        return sum(actual)


def test_every_metric_has_the_expected_value_after_known_calls(bundle: Bundle) -> None:
    with bench(bundle, max_queue_requests=3, max_batch_size=1, cache_mb=8) as served:
        history = RecommendRequest(query="a western", history=[Event(item_id="50")])
        for _ in range(2):  # the second query comes from the cache
            assert served.recommender.Recommend(history, timeout=LONG).items
        held = served.hold()
        assert code(served.ask("late", timeout=0.5)) is grpc.StatusCode.DEADLINE_EXCEEDED
        gone = served.ask("gone")  # it came first, and its deadline is the last: it waits
        served.until_calls(2)
        calls = [served.ask(f"text {n}", timeout=LONG / 2) for n in range(3)]
        served.until_sent(6)  # with the cancel of the late one
        served.admit()
        (refused,) = refused_of(calls, 1)
        assert code(refused) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert Page(served.app)("swiftrec_queue_requests", model="encoder") == 2  # of the three one is in the step
        assert Page(served.app)("nv_inference_pending_request_count", model=f"{bundle.manifest.name}.encoder") == 2
        assert Page(served.app)("swiftrec_calls_in_flight") == 3
        answered = [call for call in calls if call is not refused]
        gone.cancel()
        served.until_calls(2)
        served.encoder.open()
        assert all(call.result(LONG).rows == 1 for call in (held, *answered))
        assert served.ask("the first").result(LONG).rows == 1  # from the cache
        counts = served.app.metrics.calls
        until(lambda: counts.count("Encode", "CANCELLED") == counts.count("Encode", "DEADLINE_EXCEEDED") == 1)
        until(lambda: counts.count("Encode", "OK") == 4 and not served.app.limiters.calls.in_use)
        page, name = Page(served.app), bundle.manifest.name
    for step in _STEPS:
        assert page("swiftrec_step_seconds_count", step=step) == 2
    assert page("swiftrec_step_seconds_sum", step="total") > page("swiftrec_step_seconds_sum", step="encode") > 0
    batches = {"encoder": 4, "ranker": 2}  # the query, the first text, two that waited; two users
    for model in _MODELS:
        for metric in _HISTOGRAMS[1:]:
            assert page(f"{metric}_count", model=model, bundle=name) == batches[model]
        assert page("swiftrec_session_busy_seconds_total", model=model) > 0
        assert page("nv_inference_exec_count", model=f"{name}.{model}") == batches[model]
        assert page("nv_inference_compute_infer_duration_us", model=f"{name}.{model}") > 0
    assert page("swiftrec_steps_total", reason="full") == 1  # two waited, and a step has one
    assert page("swiftrec_steps_total", reason="drained") == 5
    assert page("swiftrec_queue_seconds_count", model="encoder") == 4
    assert page("swiftrec_batch_size_sum", model="encoder") == page("nv_inference_count", model=f"{name}.encoder") == 4
    assert page("swiftrec_calls_rejected_total", reason="full") == 1
    assert page("swiftrec_requests_dropped_total", model="encoder", reason="cancelled") == 1
    assert page("swiftrec_cache_lookups_total", source="hit") == 2
    assert page("swiftrec_cache_lookups_total", source="miss") == 4
    assert page("nv_cache_num_hits_per_model", model=f"{name}.encoder") == 1
    assert page("nv_cache_num_misses_per_model", model=f"{name}.encoder") == 3
    assert page("nv_inference_request_success", model=f"{name}.encoder") == 4
    assert page("swiftrec_cache_bytes") > 0
    assert page("swiftrec_calls_in_flight") == page("swiftrec_queue_requests") == page("swiftrec_queue_tokens") == 0
    assert page("swiftrec_call_seconds_count", method="Encode", code="RESOURCE_EXHAUSTED") == 1
    assert page("swiftrec_call_seconds_count", method="Encode", code="CANCELLED") == 1
    assert page("swiftrec_call_seconds_count", method="Encode", code="DEADLINE_EXCEEDED") == 1
    assert page("swiftrec_call_seconds_count", method="Recommend", code="OK") == 2
    assert page("nv_inference_request_success", model=f"{name}.ranker") == 2


def test_requests_that_expire_in_the_queue_are_counted_as_expired(bundle: Bundle) -> None:
    """The timeout that a request of the Open Inference Protocol sets is known to the worker alone."""
    with bench(bundle, max_batch_size=1) as served:
        held, expiring = served.hold(), service_pb2.ModelInferRequest(model_name="encoder")
        expiring.inputs.add(name="TEXT", datatype="BYTES", shape=(1, 1)).contents.bytes_contents.append(b"late")
        expiring.parameters["timeout"].int64_param = 20_000  # microseconds from when the worker has it
        expiring.parameters["priority"].uint64_param = 9
        calls = [served.ask("first"), served.inference.ModelInfer.future(expiring, timeout=LONG)]
        served.until_sent(2)
        served.admit()
        ends = time.monotonic() + 0.02
        until(lambda: time.monotonic() > ends)
        served.encoder.open()
        assert code(calls[1]) is grpc.StatusCode.DEADLINE_EXCEEDED
        assert [call.result(LONG).rows for call in (held, calls[0])] == [1, 1]
        assert Page(served.app)("swiftrec_requests_dropped_total", model="encoder", reason="expired") == 1
        assert served.encoder.sizes == [1, 1]
