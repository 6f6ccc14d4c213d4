"""Stopping the gRPC server loses no call, and the death of its polling thread is reported."""

from __future__ import annotations

import queue
import threading
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2

from swiftrec.server.app import App
from swiftrec.server.front import aio_call, grpc_adapter
from swiftrec.server.pb.swiftrec.v1 import encoder_pb2 as pb
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2
from tests.server.support import small
from tests.server.support.apps import connect, running
from tests.server.support.http2 import Peer
from tests.until import LONG, until

pytestmark = pytest.mark.usefixtures("each_front")

_CALLS = 200
_UNARY = "/swiftrec.v1.EncoderService/Encode"
_REQUEST = pb.EncodeRequest(texts=["film"]).SerializeToString()


def test_calls_that_arrived_before_the_stop_are_answered(tmp_path: Path) -> None:
    with running(tmp_path) as app, connect(app) as channel:
        ask = channel.unary_unary(_UNARY, None, None)
        ask(_REQUEST, timeout=LONG)
        calls = [ask.future(_REQUEST, timeout=LONG) for _ in range(_CALLS)]
        counts, limiter = app.metrics.calls, app.limiters.calls
        until(lambda: counts.count("Encode", "OK") + limiter.in_use > _CALLS)  # all have arrived
        app.stop()
        assert Counter(call.code().name for call in calls) == {"OK": _CALLS}
        until(lambda: app.metrics.calls.count("Encode", "OK") == _CALLS + 1)


def test_calls_during_the_stop_are_answered_or_unavailable(tmp_path: Path) -> None:
    codes: queue.SimpleQueue[str] = queue.SimpleQueue()
    is_over, has_begun = threading.Event(), threading.Semaphore(0)

    def keep_calling(app: App) -> None:
        with connect(app) as channel:
            ask = channel.unary_unary(_UNARY, None, None)
            while not is_over.is_set():
                call = ask.future(_REQUEST, timeout=LONG)
                codes.put(call.code().name)
                has_begun.release()

    with running(tmp_path) as app:
        callers = [threading.Thread(target=keep_calling, args=(app,)) for _ in range(4)]
        for caller in callers:
            caller.start()
        for _ in range(20):
            assert has_begun.acquire(timeout=LONG)
        app.stop()
        is_over.set()
        for caller in callers:
            caller.join()
    actual = Counter(codes.get() for _ in range(codes.qsize()))
    assert set(actual) == {"OK", "UNAVAILABLE"}


def test_streams_continue_during_the_grace_period(tmp_path: Path) -> None:
    stream = "/swiftrec.v1.RecommenderService/StreamRecommend"
    messages: queue.Queue[bytes | None] = queue.Queue()
    with running(tmp_path, grace_ms=int(1e3 * LONG)) as app, connect(app) as channel:
        first = channel.stream_stream(stream, None, None)(iter(messages.get, None), timeout=LONG)
        messages.put(b"")
        next(iter(first))
        stopping = threading.Thread(target=app.stop)
        stopping.start()
        until(lambda: app._arrivals._is_closed)
        messages.put(b"")
        assert next(iter(first))
        messages.put(None)
        assert list(first) == []
        stopping.join(LONG)
        assert first.code() is grpc.StatusCode.OK


@pytest.mark.parametrize(("grace_ms", "is_hurried"), [(0, False), (300, False), (int(1e3 * LONG), True)])
def test_calls_pending_at_the_end_of_the_grace_period_are_unavailable_for_client_and_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grace_ms: int, is_hurried: bool
) -> None:
    gate, silence = threading.Event(), queue.SimpleQueue[bytes | None]()
    with running(tmp_path, grace_ms=grace_ms) as app, connect(app) as channel:
        monkeypatch.setattr(small.TinyEncoder, "run", lambda *_: gate.wait(LONG))
        try:
            calls = _open_calls(channel, silence)
            until(lambda: len(app._open_calls._methods) == len(calls))
            until(lambda: app.limiters.calls.in_use == 2)
            stopping = threading.Thread(target=app.stop)
            stopping.start()
            if is_hurried:
                until(lambda: app._arrivals._is_aborting)
                app.cancel_in_flight()
            for call in calls:
                with pytest.raises(grpc.RpcError):
                    list(call)
            assert [call.code().name for call in calls] == ["UNAVAILABLE"] * len(calls)
            for n, call in enumerate(calls):
                assert call.details().startswith("the server is stopping and the grace period has ended")
                assert dict(call.trailing_metadata())["x-request-id"] == f"mine {n}"
        finally:
            gate.set()
        stopping.join(LONG)
        assert not stopping.is_alive()
        for _ in calls:
            silence.put(None)
        ended = {"Encode": 4, "StreamRecommend": 2, "Watch": 1, "ServerReflectionInfo": 1}
        until(lambda: {name: app.metrics.calls.count(name, "UNAVAILABLE") for name in ended} == ended)
        assert not any(app.metrics.calls.count(name, "CANCELLED") for name in ended)
        assert app.metrics.calls.count("Encode", "OK") == 0


def _open_calls(channel: grpc.Channel, silence: queue.SimpleQueue[bytes | None]) -> list[Any]:
    """Two calls that the worker has, two without a request; streams in a step, at rest, of health and of reflection."""
    calls: list[Any] = []

    def call(method: str, *messages: bytes, is_silent: bool = True, answers: int = 0) -> None:
        rest = iter(silence.get, None) if is_silent else iter(())
        metadata = (("x-request-id", f"mine {len(calls)}"),)
        calls.append(channel.stream_stream(method, None, None)(chain(messages, rest), timeout=LONG, metadata=metadata))
        for _ in range(answers):
            next(calls[-1])

    stream = "/swiftrec.v1.RecommenderService/StreamRecommend"
    call(stream, b"", answers=1)
    query = recommender_pb2.RecommendRequest(query="film")
    call(stream, recommender_pb2.StreamRecommendRequest(request=query).SerializeToString())
    call("/grpc.health.v1.Health/Watch", b"", is_silent=False, answers=1)
    listing = reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()
    call("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", listing, answers=1)
    for _ in range(2):
        call(_UNARY, _REQUEST, is_silent=False)
        call(_UNARY)
    return calls


def test_call_is_cancelled_after_the_grace_period_when_its_response_is_not_read(tmp_path: Path) -> None:
    long = pb.EncodeRequest(texts=["film"] * 200).SerializeToString()
    with running(tmp_path, grace_ms=int(1e3 * LONG)) as app, Peer(app.port, window=10) as peer:
        peer.call(1, _UNARY)
        peer.send(1, long)
        peer.call(3, "/swiftrec.v1.RecommenderService/StreamRecommend")
        peer.send(3, b"", ends=False)
        until(lambda: len(app._middleware._front.unsent._responses) == 2)
        stopping = threading.Thread(target=app.stop)
        stopping.start()
        until(lambda: app._arrivals._is_aborting)
        app.cancel_in_flight()
        stopping.join(LONG)
        assert not stopping.is_alive()
        until(lambda: app.metrics.calls.count("Encode", "CANCELLED") == 1)
        until(lambda: app.metrics.calls.count("StreamRecommend", "CANCELLED") == 1)


def test_server_reports_a_fault_and_still_stops_when_the_polling_thread_of_grpc_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise SystemExit  # passes every handler of errors

    faulty = threading.Event()
    monkeypatch.setattr(threading, "excepthook", lambda _arguments: None)
    with running(tmp_path) as app:
        app.on_fault(faulty.set)
        monkeypatch.setattr(grpc_adapter.GrpcCall, "start", die)
        monkeypatch.setattr(aio_call.AioCall, "run", die)
        with connect(app) as channel:
            call = channel.unary_unary(_UNARY, None, None).future(_REQUEST, timeout=LONG)
            assert faulty.wait(LONG)
            assert app.fault == "gRPC's polling thread has ended: restart the server"
            stopping = threading.Thread(target=app.stop)
            stopping.start()
            stopping.join(LONG)
            assert not stopping.is_alive()
            call.cancel()  # type: ignore[no-untyped-call]


def test_server_answers_and_stops_when_no_more_threads_can_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with running(tmp_path, grace_ms=0) as app, connect(app) as channel:
        ask = channel.unary_unary(_UNARY, None, None)
        stream = channel.stream_stream("/swiftrec.v1.RecommenderService/StreamRecommend", None, None)
        assert ask(_REQUEST, timeout=LONG)  # the client starts its own threads
        assert len(list(stream(iter([b""]), timeout=LONG))) == 1
        allowed = threading.current_thread()
        start = threading.Thread.start

        def limited(thread: threading.Thread) -> None:
            if threading.current_thread() is not allowed:  # the client's calls begin in the test's thread
                refused(thread)
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", limited)
        for _ in range(20):
            assert ask(_REQUEST, timeout=LONG)
            assert len(list(stream(iter([b""]), timeout=LONG))) == 1
        assert app.fault == ""
        monkeypatch.setattr(threading.Thread, "start", refused)
        app.stop()
        assert app.fault == ""
