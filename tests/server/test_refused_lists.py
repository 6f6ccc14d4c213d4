"""Calls that are refused say over the wire when to come again, and batch calls starve no single call."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from typing import cast

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from swiftrec.server.app import App
from swiftrec.server.batching.admission import Load
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from swiftrec.server.pb.swiftrec.v1.recommender_pb2_grpc import RecommenderServiceStub
from swiftrec.server.worker.loop import WorkerThread
from tests.server.held import hold_steps
from tests.server.test_endpoint import connect, running
from tests.until import LONG, until

_SERVICE = "/swiftrec.v1.RecommenderService/"
_LISTS, _ENTRIES, _TOP_K = 64, 20, 1_000  # as many items as one call may ask for
_SINGLES = 5


def retry_s(call: object) -> float:
    """The delay of a refused call, by its RetryInfo and by gRPC's own trailer, which must agree."""
    assert isinstance(call, grpc.Call)
    assert call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    status, retry = rpc_status.from_call(call), error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(retry)
    delay_s: float = retry.retry_delay.ToTimedelta().total_seconds()
    pushback_ms = dict(call.trailing_metadata())["grpc-retry-pushback-ms"]
    assert float(pushback_ms) == pytest.approx(1e3 * delay_s, abs=1)
    return delay_s


@pytest.mark.parametrize(
    ("method", "wanted_s"), [("Recommend", 2.0), ("BatchRecommend", 2.0), ("StreamRecommend", 1.0)]
)
def test_call_beyond_the_limit_of_calls_comes_again_when_the_worker_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, wanted_s: float
) -> None:
    """As the link says it; what waits for the worker says nothing of streams."""
    monkeypatch.setattr(WorkerThread, "load", Load(100, 1_000, 2.0))
    with running(tmp_path) as app, connect(app) as channel:
        limiter = app.limiters.streams if method == "StreamRecommend" else app.limiters.calls
        for _ in range(limiter.limit):
            limiter.acquire()
        call = channel.stream_stream(_SERVICE + method, None, None)(iter([b""]), timeout=LONG)
        with pytest.raises(grpc.RpcError):
            next(iter(call))
        assert retry_s(call) == wanted_s


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """The worker runs no step until it is open."""
    return hold_steps(monkeypatch)


def test_list_that_finds_the_queue_full_is_refused_whole_and_comes_again_when_it_has_run(
    tmp_path: Path, gate: threading.Event
) -> None:
    requests = [pb.RecommendRequest(history=[pb.Event(item_id=f"i{n}")]) for n in range(8)]
    batch = pb.BatchRecommendRequest(requests=requests)
    with running(tmp_path, max_waiting_jobs=4) as app, connect(app) as channel:
        stub = RecommenderServiceStub(channel)
        first = stub.Recommend.future(requests[0], timeout=LONG)
        until(lambda: app.worker.has_work)
        lists = [stub.BatchRecommend.future(batch, timeout=LONG) for _ in range(3)]
        until(lambda: app.limiters.calls.in_use == 4)
        gate.set()
        assert first.result(LONG).items
        ended = Counter(cast("grpc.Call", call).code().name for call in lists)
        assert ended == {"OK": 1, "RESOURCE_EXHAUSTED": 2}  # what finds an empty queue is accepted
        for call in lists:
            if cast("grpc.Call", call).code() is grpc.StatusCode.OK:
                assert len(call.result(LONG).results) == len(requests)
            else:
                assert 0 < retry_s(call) < LONG


def test_lists_of_popular_items_starve_no_single_call(app: App, gate: threading.Event) -> None:
    batch = pb.BatchRecommendRequest(requests=[pb.RecommendRequest(top_k=_TOP_K)] * _ENTRIES).SerializeToString()
    with connect(app) as lists, connect(app) as singles:
        method = lists.unary_unary(_SERVICE + "BatchRecommend", None, None)  # 64 responses take long to decode
        before = app.metrics.calls.count("BatchRecommend", "OK")
        calls = [method.future(batch, timeout=LONG) for _ in range(_LISTS)]
        until(lambda: app.limiters.calls.in_use == _LISTS)
        gate.set()
        request = pb.RecommendRequest(history=[pb.Event(item_id="50")])
        for _ in range(_SINGLES):
            assert RecommenderServiceStub(singles).Recommend(request, timeout=LONG).items
        assert app.metrics.calls.count("BatchRecommend", "OK") - before < _LISTS  # the lists are not over
        seen = Counter(cast("grpc.Call", call).code().name for call in calls)
        assert set(seen) <= {"OK", "RESOURCE_EXHAUSTED"}
        assert seen["OK"] > 0
        for call in calls:
            if cast("grpc.Call", call).code() is not grpc.StatusCode.OK:
                assert 0 < retry_s(call) < LONG
