"""Faults of single requests, steps and loads affect nothing else, over a real socket."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import grpc
import numpy as np
import pytest
from google.rpc import code_pb2, error_details_pb2
from grpc_status import rpc_status
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2 as triton

from swiftrec.benchmarks.null_server import NullSession
from swiftrec.server.app import App
from swiftrec.server.batching.cost_model import Observation
from swiftrec.server.config import ServerSettings
from swiftrec.server.domain import Recommendation, Request
from swiftrec.server.front.grpc_adapter import GrpcCall
from swiftrec.server.front.unary_methods import WorkerMethod
from swiftrec.server.models.bundle import Bundle
from swiftrec.server.models.session import Session
from swiftrec.server.pb.swiftrec.v1 import encoder_pb2
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from swiftrec.server.pb.swiftrec.v1.recommender_pb2_grpc import RecommenderServiceStub
from swiftrec.server.pipeline.request_state import RequestState
from tests.server.support.apps import add_version
from tests.server.support.gated import Bench, bench, refused_of
from tests.server.support.gated import code as code_of
from tests.server.support.secure import CHECK, code, connected
from tests.server.test_observability import Page
from tests.until import LONG, until

_GUILTY = 7  # top_k of the request that fails, or that a stage is held for
_CODES = {code.value[0]: code.name for code in grpc.StatusCode}


def is_guilty(arguments: tuple[object, ...]) -> bool:
    """Whether what a step is given has the guilty request among its requests or recommendations."""
    given = [entry for argument in arguments for entry in (argument if isinstance(argument, list) else [argument])]
    requests = [entry.request if isinstance(entry, RequestState) else entry for entry in given]
    expected = [entry.top_k for entry in requests if isinstance(entry, pb.RecommendRequest | Request)]
    actual = [len(entry.items) for entry in given if isinstance(entry, Recommendation)]
    return _GUILTY in expected + actual


def request(top_k: int = 10) -> pb.RecommendRequest:
    return pb.RecommendRequest(query="a western", history=[pb.Event(item_id="50")], top_k=top_k)


# 1. The server's own deadline


@pytest.mark.parametrize(
    "step", ["swiftrec.server.pipeline.recommend.retrieve", "swiftrec.server.worker.methods.write_response"]
)
def test_no_call_is_answered_after_the_default_timeout(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    held, gate = threading.Event(), threading.Event()
    run = _named(step)

    def hold(*arguments: Any) -> Any:  # noqa: ANN401 (whatever the step has)
        held.set()
        assert gate.wait(LONG)
        return run(*arguments)

    with bench(bundle, default_timeout_ms=200) as served:
        monkeypatch.setattr(step, hold)
        first = served.recommender.Recommend.future(request(), timeout=LONG)
        assert held.wait(LONG)
        later = [served.recommender.Recommend.future(request(), timeout=LONG) for _ in range(20)]
        try:
            assert {code_of(call) for call in (first, *later)} == {grpc.StatusCode.DEADLINE_EXCEEDED}
        finally:
            gate.set()
        monkeypatch.setattr(step, run)
        counts = served.app.metrics.calls
        until(lambda: counts.count("Recommend", "DEADLINE_EXCEEDED") == 21)
        assert served.recommender.Recommend(request(), timeout=LONG).items  # the worker is free again
        until(lambda: counts.count("Recommend", "OK") == 1)


def _named(path: str) -> Callable[..., Any]:
    module, _, name = path.rpartition(".")
    actual: Callable[..., Any] = getattr(__import__(module, fromlist=[name]), name)
    return actual


# 2. An exception in our own code

_STEPS = [
    "swiftrec.server.worker.methods.to_request",
    "swiftrec.server.pipeline.recommender.resolve",
    "swiftrec.server.pipeline.recommend.encode",
    "swiftrec.server.pipeline.recommend.rank",
    "swiftrec.server.pipeline.recommend.retrieve",
    "swiftrec.server.worker.methods.write_response",
]


@pytest.fixture(params=_STEPS)
def faulty_step(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A step that raises if the guilty request is in its batch."""
    step = str(request.param)
    run = _named(step)

    def fail(*arguments: Any) -> Any:  # noqa: ANN401 (whatever the step has)
        if is_guilty(arguments):
            raise KeyError("a bug of ours")
        return run(*arguments)

    monkeypatch.setattr(step, fail)
    return step


@pytest.mark.usefixtures("faulty_step")
def test_exception_in_a_step_is_internal_for_one_request_only(bundle: Bundle) -> None:
    with bench(bundle) as served:
        held = served.hold()
        calls = [served.recommender.Recommend.future(request(top_k), timeout=LONG) for top_k in (5, _GUILTY, 9)]
        served.until_calls(4)
        served.encoder.open()
        assert code_of(calls[1]) is grpc.StatusCode.INTERNAL
        assert [len(calls[n].result(LONG).items) for n in (0, 2)] == [5, 9]
        assert held.result(LONG).rows == 1
        assert len(served.recommender.Recommend(request(), timeout=LONG).items) == 10
        assert served.is_healthy()


@pytest.mark.usefixtures("faulty_step")
def test_exception_for_one_entry_of_a_batch_fails_only_it(bundle: Bundle) -> None:
    with bench(bundle) as served:
        requests = [request(top_k) for top_k in (5, _GUILTY, 9)]
        results = served.recommender.BatchRecommend(pb.BatchRecommendRequest(requests=requests), timeout=LONG).results
        assert [result.error.code for result in results] == [0, code_pb2.INTERNAL, 0]
        assert [len(result.response.items) for result in results] == [5, 0, 9]
        messages = (pb.StreamRecommendRequest(request=entry) for entry in requests)
        streamed = [reply.result for reply in served.recommender.StreamRecommend(messages, timeout=LONG)]
        assert [result.error.code for result in streamed] == [0, code_pb2.INTERNAL, 0]
        assert served.is_healthy()


# 3. A list that is much for one server


@pytest.mark.parametrize("cache_mb", [0, 64])
def test_largest_batch_request_does_not_block_other_calls(bundle: Bundle, cache_mb: int) -> None:
    """256 requests with 20 texts: more tokens than may wait, and more time than calls may wait."""
    words = "word " * 50
    requests = [
        pb.RecommendRequest(query=f"{n}", history=[pb.Event(text=f"{n} {m} {words}") for m in range(19)])
        for n in range(256)
    ]
    settings = ServerSettings(
        bundle=[bundle.folder],
        port=0,
        metrics_port=0,
        sessions=1,
        cache_mb=cache_mb,
        queue_budget_ms=int(1e3 * LONG),  # no call is rejected because this machine is slow
        _cli_parse_args=[],
    )
    app = App(settings, open_session=lambda path, *_: SlowRows.of(path, 0.0005))
    app.start()
    try:
        with connected(app) as channel, connected(app) as other:
            batch = pb.BatchRecommendRequest(requests=requests)
            answered = RecommenderServiceStub(channel).BatchRecommend.future(batch, timeout=LONG)
            until(lambda: app.worker.has_work)
            singles = 0
            while not answered.done():
                assert RecommenderServiceStub(other).Recommend(request(), timeout=LONG).items
                singles += 1
            results = answered.result().results
            assert {result.WhichOneof("result") for result in results} == {"response"}
            assert singles >= 5  # of which the last one alone may have waited for the end of the list
    finally:
        app.stop()


class SlowRows(NullSession):
    """A session that takes its time for each row."""

    def run(self, feeds: dict[str, NDArray[np.generic]]) -> NDArray[np.float32]:
        threading.Event().wait(self._service_s * len(next(iter(feeds.values()))))
        return np.zeros((len(next(iter(feeds.values()))), self._width), dtype=np.float32)


# 4. A model that answers NaN


class Undefined(NullSession):
    """A session that answers NaN for rows of one length."""

    length = 0

    def run(self, feeds: dict[str, NDArray[np.generic]]) -> NDArray[np.float32]:
        mask = feeds["attention_mask"] if "attention_mask" in feeds else feeds["mask"]
        rows = np.ones((len(mask), self._width), dtype=np.float32)
        rows[mask.astype(int).sum(axis=1) == self.length] = np.nan
        return rows


@pytest.mark.parametrize("model", ["encoder", "ranker"])
def test_input_with_a_nan_result_fails_alone_in_its_batch(bundle: Bundle, model: str) -> None:
    opened: dict[str, Undefined] = {}

    def open_session(path: Path, _device: str, _threads: int) -> Session:
        name = "encoder" if path.name.startswith("encoder") else "ranker"
        return opened.setdefault(name, Undefined.of(path, 0.0))

    settings = ServerSettings(bundle=[bundle.folder], port=0, metrics_port=0, sessions=1, _cli_parse_args=[])
    app = App(settings, open_session=open_session)
    app.start()
    opened[model].length = 9
    guilty = pb.RecommendRequest(query="one two three four five six seven")  # and two special tokens
    if model == "ranker":
        guilty = pb.RecommendRequest(history=[pb.Event(item_id="50")] * 9)
    try:
        with connected(app) as channel:
            stub = RecommenderServiceStub(channel)
            assert code_of(stub.Recommend.future(guilty, timeout=LONG)) is grpc.StatusCode.INTERNAL
            batch = pb.BatchRecommendRequest(requests=[request(), guilty, request()])
            results = stub.BatchRecommend(batch, timeout=LONG).results
            assert [result.error.code for result in results] == [0, code_pb2.INTERNAL, 0]
            assert [len(result.response.items) for result in results] == [10, 0, 10]
            assert "not finite" in results[1].error.message
            assert code(channel, CHECK) is grpc.StatusCode.OK
    finally:
        app.stop()


# 5. What a refusal says


def test_rejection_for_a_deadline_does_not_mention_a_full_queue(bundle: Bundle) -> None:
    with bench(bundle, max_batch_size=1, queue_budget_ms=3_600_000) as served, served.app.registry.lease() as engine:
        held = served.hold()
        engine.stages.encoder.cost.seed([Observation(rows, 4, 10.0 * rows) for rows in (1, 2, 4)])
        calls = [served.ask(f"text {n}", timeout=15.0) for n in range(2)]  # time for one of them
        served.until_sent(2)
        served.admit()
        (refused,) = refused_of(calls, 1)
        assert code_of(refused) is grpc.StatusCode.RESOURCE_EXHAUSTED
        details = cast("grpc.Call", refused).details()
        assert "deadline" in details
        assert not {"queue", "full"} & set(details.replace(":", " ").split())
        status, retry = rpc_status.from_call(cast("grpc.Call", refused)), error_details_pb2.RetryInfo()
        assert status.details[0].Unpack(retry)
        served.encoder.open()
        assert held.result(LONG).rows == 1


# 6. Streams in flight


def test_streams_are_among_the_calls_in_flight(bundle: Bundle) -> None:
    with bench(bundle) as served, ExitStack() as stack:
        more = threading.Event()
        stack.callback(more.set)

        def messages(message: object) -> Any:  # noqa: ANN401 (an iterator of either protocol's messages)
            yield message
            assert more.wait(LONG)

        infer = triton.ModelInferRequest(model_name="encoder")
        infer.inputs.add(name="TEXT", datatype="BYTES", shape=(1, 1)).contents.bytes_contents.append(b"x")
        streams = [
            served.recommender.StreamRecommend(messages(pb.StreamRecommendRequest(request=request())), timeout=LONG),
            served.inference.ModelStreamInfer(messages(infer), timeout=LONG),
        ]
        for stream in streams:
            assert next(stream)
        assert Page(served.app)("swiftrec_calls_in_flight") == 2
        more.set()
        assert [list(stream) for stream in streams] == [[], []]
        until(lambda: Page(served.app)("swiftrec_calls_in_flight") == 0)


# 7. Many calls at once


def test_client_and_server_count_the_same_outcomes_of_3000_concurrent_calls(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come while gRPC's polling thread is busy, so that they wait in gRPC's core."""
    gate, begin = threading.Event(), WorkerMethod.on_call

    def begin_later(method: WorkerMethod, call: GrpcCall) -> None:
        assert gate.wait(LONG)
        begin(method, call)

    monkeypatch.setattr(WorkerMethod, "on_call", begin_later)
    data = encoder_pb2.EncodeRequest(texts=["a western"]).SerializeToString()
    with bench(bundle, max_calls=8) as served, ExitStack() as stack:
        channels = [stack.enter_context(connected(served.app)) for _ in range(6)]
        for channel in channels:
            grpc.channel_ready_future(channel).result(LONG)
        methods = [channel.unary_unary("/swiftrec.v1.EncoderService/Encode", None, None) for channel in channels]
        calls = [methods[n % 6].future(data, timeout=LONG) for n in range(3_000)]
        gate.set()
        seen: Counter[str] = Counter()
        for call in calls:
            seen[cast("grpc.Call", call).code().name] += 1
        assert set(seen) == {"OK", "RESOURCE_EXHAUSTED"}
        assert sum(seen.values()) == 3_000
        counts = served.app.metrics.calls
        until(
            lambda: (
                {name: counts.count("Encode", name) for name in _CODES.values() if counts.count("Encode", name)}
                == dict(seen)
            ),
            lambda: seen,
        )
        refused = next(cast("grpc.Call", call) for call in calls if cast("grpc.Call", call).code().name != "OK")
        status, retry = rpc_status.from_call(refused), error_details_pb2.RetryInfo()
        assert status.details[0].Unpack(retry)
        assert served.is_healthy()


# 8. Many loads at once


def test_bundle_loads_do_not_use_the_call_limit(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    monkeypatch.setattr("swiftrec.server.app.probe", lambda *_: gate.wait(LONG))
    add_version(bundle, tmp_path, 1, "other")
    with bench(bundle, repository=tmp_path, max_calls=8) as served:
        load = triton.RepositoryModelLoadRequest(model_name="other")
        loads = [served.inference.RepositoryModelLoad.future(load, timeout=LONG) for _ in range(300)]
        changes = served.app.limiters.changes
        try:
            until(lambda: changes.in_use == changes.limit)
            until(lambda: sum(call.done() for call in loads) == 300 - changes.limit)
            accepted = [call for call in loads if not call.done()]
            assert {code_of(call) for call in loads if call.done()} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
            _check_everything(served)
        finally:
            gate.set()
        assert {call.exception(LONG) for call in accepted} == {None}
        assert served.recommender.Recommend(pb.RecommendRequest(query="x", bundle="other"), timeout=LONG).items


def _check_everything(served: Bench) -> None:
    """As many calls as may be in flight, a stream, control and health are answered."""
    calls = [served.recommend() for _ in range(8)]
    assert all(call.result(LONG).items for call in calls)
    messages = iter([pb.StreamRecommendRequest(request=request())])
    assert len(list(served.recommender.StreamRecommend(messages, timeout=LONG))) == 1
    assert served.inference.ServerLive(triton.ServerLiveRequest(), timeout=LONG).live
    assert served.inference.ServerMetadata(triton.ServerMetadataRequest(), timeout=LONG).name == "swiftrec"
    assert served.inference.ModelReady(triton.ModelReadyRequest(name="encoder"), timeout=LONG).ready
    assert served.inference.ModelMetadata(triton.ModelMetadataRequest(name="encoder"), timeout=LONG).inputs
    assert served.inference.RepositoryIndex(triton.RepositoryIndexRequest(), timeout=LONG).models
    assert served.is_healthy()
