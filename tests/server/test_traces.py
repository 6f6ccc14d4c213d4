"""Spans of real calls reach a collector over a socket, and nothing of a request is in spans, logs or metrics."""

from __future__ import annotations

import io
import itertools
import logging
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.rpc import code_pb2
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2, service_pb2_grpc

from swiftrec.server.app import App
from swiftrec.server.config import ServerSettings
from swiftrec.server.errors import ConfigError
from swiftrec.server.models.bundle import Bundle
from swiftrec.server.models.session import open_session
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from swiftrec.server.pb.swiftrec.v1.recommender_pb2_grpc import RecommenderServiceStub
from swiftrec.server.telemetry.logs import JsonFormatter
from swiftrec.server.telemetry.traces import read_traceparent
from tests.conftest import ROOT
from tests.server.support.collector import Collector, collecting, facts

SECRET = "swordfish-4711"  # noqa: S105 (a text that must not be seen)
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
RECOMMEND = "/swiftrec.v1.RecommenderService/Recommend"


class Failing:
    """A session that fails on real work once it is armed, and quotes what it got; it can be held, too."""

    is_armed = False
    entered, gate = threading.Event(), threading.Event()
    gate.set()

    def __init__(self, path: Path, device: str, threads: int) -> None:
        self._inner = open_session(path, device, threads)

    def run(self, feeds: dict[str, NDArray[np.generic]]) -> NDArray[np.float32]:
        if self.is_armed:
            raise RuntimeError(f"{SECRET} {feeds}")
        self.entered.set()
        assert self.gate.wait(30)
        return self._inner.run(feeds)


@contextmanager
def serving(bundle: Bundle, endpoint: str | None, ratio: float = 1.0) -> Iterator[App]:
    settings = ServerSettings(
        bundle=[bundle.folder],
        port=0,
        metrics_port=0,
        otlp_endpoint=endpoint,
        trace_ratio=ratio,
        _cli_parse_args=[],
    )
    app = App(settings, open_session=Failing)
    app.start()
    try:
        yield app
    finally:
        app.stop()


def ask(app: App, identity: str, data: bytes, timeout: float = 10, parent: str = "") -> grpc.StatusCode:
    metadata = (("x-request-id", identity), *((("traceparent", parent),) if parent else ()))
    with grpc.insecure_channel(f"127.0.0.1:{app.port}") as channel:
        try:
            channel.unary_unary(RECOMMEND, None, None)(data, timeout=timeout, metadata=metadata)
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK


def query(text: str = "a good western") -> bytes:
    return pb.RecommendRequest(query=text).SerializeToString()


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as running:
        yield running


@pytest.fixture(scope="module")
def traced(bundle: Bundle, collector: Collector) -> Iterator[App]:
    with serving(bundle, collector.endpoint) as app:
        yield app


def test_call_is_a_span_of_the_trace_of_its_caller_with_its_steps(traced: App, collector: Collector) -> None:
    assert ask(traced, "one", query(), parent=f"00-{TRACE}-{SPAN}-01") is grpc.StatusCode.OK
    span, steps = collector.call("one")
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, SPAN)
    assert (span.name, span.status.code) == (RECOMMEND[1:], 0)
    assert facts(span)["swiftrec.bundle"] == "movielens-quick"
    assert [step.name for step in steps] == ["tokenise", "encode", "rank", "retrieve"]
    for step in steps:
        assert span.start_time_unix_nano <= step.start_time_unix_nano < step.end_time_unix_nano
        assert step.end_time_unix_nano <= span.end_time_unix_nano
    assert all(a.end_time_unix_nano <= b.start_time_unix_nano for a, b in itertools.pairwise(steps))


def test_batch_request_has_each_step_once(traced: App, collector: Collector) -> None:
    request = pb.RecommendRequest(query="a good western")
    with grpc.insecure_channel(f"127.0.0.1:{traced.port}") as channel:
        stub = RecommenderServiceStub(channel)
        stub.BatchRecommend(pb.BatchRecommendRequest(requests=[request] * 5), metadata=(("x-request-id", "list"),))
    _, steps = collector.call("list")
    assert [step.name for step in steps] == ["tokenise", "encode", "rank", "retrieve"]
    assert {facts(step)["swiftrec.requests"] for step in steps} == {5}


def test_refused_call_is_an_error_with_its_code(traced: App, collector: Collector) -> None:
    ask(traced, "bad", pb.RecommendRequest(top_k=0).SerializeToString())
    span, _ = collector.call("bad")
    assert facts(span)["rpc.grpc.status_code"] == code_pb2.INVALID_ARGUMENT
    assert (span.status.code, span.status.message) == (2, "INVALID_ARGUMENT")


@pytest.fixture
def held() -> Iterator[type[Failing]]:
    Failing.entered.clear()
    Failing.gate.clear()
    yield Failing
    Failing.gate.set()


def test_expired_deadline_is_an_error(traced: App, collector: Collector, held: type[Failing]) -> None:
    assert ask(traced, "late", query("too late"), timeout=0.3) is grpc.StatusCode.DEADLINE_EXCEEDED
    span, _ = collector.call("late")
    assert facts(span)["rpc.grpc.status_code"] == code_pb2.DEADLINE_EXCEEDED
    assert span.status.code == 2


def test_cancelled_call_is_an_error(traced: App, collector: Collector, held: type[Failing]) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{traced.port}") as channel:
        call = channel.unary_unary(RECOMMEND, None, None)
        future = call.future(query("cancelled"), timeout=10, metadata=(("x-request-id", "gone"),))
        assert held.entered.wait(10)
        future.cancel()  # type: ignore[no-untyped-call]
        span, _ = collector.call("gone")
    assert facts(span)["rpc.grpc.status_code"] == code_pb2.CANCELLED
    assert span.status.code == 2


def test_ratio_0_traces_only_calls_traced_by_the_caller(bundle: Bundle) -> None:
    with collecting() as collector:
        with serving(bundle, collector.endpoint, ratio=0.0) as app:
            ask(app, "none", query())
            ask(app, "unsampled", query(), parent=f"00-{TRACE}-{SPAN}-00")
        assert collector.spans == []


def test_unreachable_collector_does_not_affect_responses(bundle: Bundle) -> None:
    with serving(bundle, "http://127.0.0.1:1") as app:
        assert ask(app, "x", query()) is grpc.StatusCode.OK
        app.cancel_in_flight()


def test_nothing_of_a_request_is_in_logs_metrics_or_spans(
    traced: App, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = io.StringIO()
    handler = logging.StreamHandler(lines)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    monkeypatch.setattr(root, "level", logging.DEBUG)
    root.manager._clear_cache()  # type: ignore[attr-defined]
    root.addHandler(handler)
    try:
        assert ask(traced, "good", query(SECRET)) is grpc.StatusCode.OK
        events = [pb.Event(text=SECRET), pb.Event(item_id=SECRET)]
        assert ask(traced, "events", pb.RecommendRequest(history=events).SerializeToString()) is grpc.StatusCode.OK
        requested = pb.RecommendRequest(query="x", bundle=SECRET).SerializeToString()
        assert ask(traced, "bundle", requested) is grpc.StatusCode.NOT_FOUND
        tensor = service_pb2.ModelInferRequest(model_name="encoder")
        tensor.inputs.add(name="TEXT", datatype="BYTES", shape=(1, 1)).contents.bytes_contents.append(SECRET.encode())
        with grpc.insecure_channel(f"127.0.0.1:{traced.port}") as channel:
            token = (("x-request-id", "infer"), ("authorization", f"Bearer {SECRET}"))
            service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(tensor, timeout=10, metadata=token)
        ask(traced, "bytes", b"\x12\x10\xff" + SECRET.encode() + b"\xfe")
        monkeypatch.setattr(Failing, "is_armed", True)
        assert ask(traced, "failing", query(f"{SECRET} again")) is grpc.StatusCode.INTERNAL
        collector.call("failing")
    finally:
        root.removeHandler(handler)
    with urllib.request.urlopen(f"http://127.0.0.1:{traced.metrics_port}/metrics", timeout=10) as page:
        assert SECRET not in page.read().decode()
    assert SECRET not in "".join(map(str, collector.spans))
    assert SECRET not in lines.getvalue()
    for identity in ("good", "events", "bundle", "infer", "bytes", "failing"):
        assert f'"request_id": "{identity}"' in lines.getvalue()
    assert '"level": "error"' in lines.getvalue()


def test_opentelemetry_is_not_imported_when_off() -> None:
    code = (
        "import sys, swiftrec.server.__main__; sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_missing_extra_is_named(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "swiftrec.server.telemetry.otlp", None)
    missing = r"needs packages that are not installed: .*\[otel\]"
    with pytest.raises(ConfigError, match=missing), serving(bundle, "http://127.0.0.1:1"):
        pass


@pytest.mark.parametrize(
    "value",
    [
        "",
        "x",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-01-x",
    ],
)
def test_invalid_traceparent_is_ignored(value: str) -> None:
    assert read_traceparent(value) is None
