"""Calls whose request does not come: they hold no thread, and their place only for a time."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import grpc
import pytest
from grpc import _server
from grpc_health.v1 import health_pb2, health_pb2_grpc

from server.api.edge import Edge
from server.api.visit import Visit
from server.app import App
from server.config import ServerSettings
from server.models.bundle import Bundle
from server.pb.swiftrec.v1 import recommender_pb2 as pb
from server.pb.swiftrec.v1.recommender_pb2_grpc import RecommenderServiceStub
from tests.integration.desks import PATH, Told, served
from tests.integration.secure import CHECK, WATCH
from tests.until import until

_MANY = 300


def test_call_without_a_message_is_refused() -> None:
    async def begin(_data: bytes, _context: grpc.ServicerContext) -> bytes:
        return b""

    missed: queue.Queue[str] = queue.Queue()
    with served(begin, missed=missed.put) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.stream_unary(PATH, None, None)(iter(()), timeout=10)
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert missed.get(timeout=10) == "UNIMPLEMENTED"
    assert missed.empty()


def test_silent_calls_that_are_cancelled_are_counted_as_that() -> None:
    async def begin(data: bytes, _context: grpc.ServicerContext) -> bytes:
        return data

    missed: queue.Queue[str] = queue.Queue()
    never: queue.Queue[bytes | None] = queue.Queue()
    come = threading.Semaphore(0)
    with served(begin, missed=missed.put, come=come) as channel:
        silent = [channel.stream_unary(PATH, None, None).future(iter(never.get, None)) for _ in range(_MANY)]
        assert all(come.acquire(timeout=10) for _ in silent)
        for call in silent:
            call.cancel()  # type: ignore[no-untyped-call]
        assert {missed.get(timeout=10) for _ in silent} == {"CANCELLED"}
        for _ in silent:
            never.put(None)
    assert missed.empty()


def test_silent_call_whose_deadline_passes_is_counted_as_that() -> None:
    async def begin(data: bytes, _context: grpc.ServicerContext) -> bytes:
        return data

    missed: queue.Queue[str] = queue.Queue()
    never: queue.Queue[bytes | None] = queue.Queue()
    with served(begin, missed=missed.put) as channel:
        silent = channel.stream_unary(PATH, None, None).future(iter(never.get, None), timeout=0.3)
        assert isinstance(silent, grpc.Call)
        assert silent.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert missed.get(timeout=10) == "DEADLINE_EXCEEDED"
        never.put(None)
    assert missed.empty()


def test_cancel_that_is_told_after_the_missing_message_is_a_cancel_all_the_same() -> None:
    told: list[str] = []
    for client, code in (("cancelled", "CANCELLED"), ("closed", "UNIMPLEMENTED")):
        state = _server._RPCState()  # type: ignore[no-untyped-call]
        state.client, state.due = "open", {"receive_message", "receive_close_on_server"}  # type: ignore[assignment] # its stub has it wrong
        event = SimpleNamespace(
            call=SimpleNamespace(start_server_batch=lambda *_: None), call_details=SimpleNamespace(deadline=9e18)
        )
        desk = SimpleNamespace(forget=lambda _visit: None)
        method = SimpleNamespace(without_request=lambda *_: told.append)
        visit = Visit(desk, event, state, method, bytes, 0.0, 0.0)  # type: ignore[arg-type]
        visit.received(SimpleNamespace(batch_operations=[SimpleNamespace(message=lambda: None)]))
        assert (state.client, told) == ("closed", [])
        state.client = client  # as the end of the call sets it
        for callback in state.callbacks or ():
            callback()
        assert told.pop() == code


def test_call_whose_request_does_not_come_gives_its_place_back() -> None:
    async def begin(data: bytes, _context: grpc.ServicerContext) -> bytes:
        return data

    missed: queue.Queue[str] = queue.Queue()
    never: queue.Queue[bytes | None] = queue.Queue()
    come = threading.Semaphore(0)
    with served(begin, limit=1, silence_s=0.3, missed=missed.put, come=come) as channel:
        ask = channel.unary_unary(PATH, None, None)
        silent = channel.stream_unary(PATH, None, None).future(iter(never.get, None), timeout=60)
        assert come.acquire(timeout=10)
        with pytest.raises(grpc.RpcError) as full:
            ask(b"x", timeout=10)
        assert isinstance(full.value, grpc.Call)
        assert full.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert isinstance(silent, grpc.Call)
        assert silent.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert missed.get(timeout=10) == "DEADLINE_EXCEEDED"
        assert ask(b"x", timeout=10) == b"x"
        never.put(None)
    assert missed.empty()


def test_requests_that_come_as_their_time_is_up_are_answered_or_refused_once() -> None:
    async def begin(data: bytes, _context: grpc.ServicerContext) -> bytes:
        return data

    over: queue.Queue[str] = queue.Queue()
    with served(begin, limit=_MANY, silence_s=0.004) as channel:
        ask = channel.unary_unary(PATH, None, None)
        for _ in range(3):  # a place that were not given back would be missing in the next round
            calls = [ask.future(b"x", timeout=60) for _ in range(_MANY)]
            for call in calls:
                call.add_done_callback(lambda done: over.put(done.code().name))  # type: ignore[attr-defined]
            codes = {over.get(timeout=30) for _ in calls}
            assert codes <= {"OK", "DEADLINE_EXCEEDED"}
    assert over.empty()


def test_silent_calls_of_any_method_hold_no_thread(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    come = threading.Semaphore(0)
    monkeypatch.setattr("server.app.Desk", partial(Told, come))
    app = App(ServerSettings(bundle=[bundle.folder], port=0, metrics_port=0, max_calls=4, _cli_parse_args=[]))
    app.start()
    never: queue.Queue[bytes | None] = queue.Queue()
    method = "/inference.GRPCInferenceService/ServerLive"
    try:
        with grpc.insecure_channel(f"127.0.0.1:{app.port}") as channel:
            silent = [channel.stream_unary(method, None, None).future(iter(never.get, None)) for _ in range(40)]
            assert all(come.acquire(timeout=10) for _ in silent)
            assert channel.unary_unary(method, None, None)(b"", timeout=10)  # there are 13 threads
            for _ in silent:
                never.put(None)
            assert {call.code().name for call in silent} == {"UNIMPLEMENTED"}
            until(lambda: app.metrics.calls.count("ServerLive", "UNIMPLEMENTED") == 40)
    finally:
        app.stop()


@contextmanager
def _running(bundle: Bundle, calls: int) -> Iterator[tuple[App, grpc.Channel]]:
    app = App(ServerSettings(bundle=[bundle.folder], port=0, metrics_port=0, max_calls=calls, _cli_parse_args=[]))
    app.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{app.port}") as channel:
            yield app, channel
    finally:
        app.stop()


def test_watchers_that_ask_nothing_are_ended_and_hold_no_more_than_their_places(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.app.Edge", partial(Edge, silence_s=0.3))
    never: queue.Queue[bytes | None] = queue.Queue()
    with _running(bundle, calls=4) as (_, channel):
        silent = [channel.stream_stream(WATCH, None, None)(iter(never.get, None), timeout=60) for _ in range(100)]
        assert channel.unary_unary(CHECK, None, None)(b"", timeout=10)
        assert {call.code().name for call in silent} <= {"CANCELLED", "RESOURCE_EXHAUSTED"}
        until(lambda: _watches(channel))
        for _ in silent:
            never.put(None)


def _watches(channel: grpc.Channel) -> bool:
    """Whether the server takes another watcher."""
    watching = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=30)
    try:
        return bool(next(watching).status == health_pb2.HealthCheckResponse.SERVING)
    except grpc.RpcError:
        assert watching.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        return False
    finally:
        watching.cancel()


def test_full_server_is_alive(bundle: Bundle) -> None:
    with _running(bundle, calls=1) as (app, channel):
        app.doors.enter()
        with pytest.raises(grpc.RpcError) as full:
            RecommenderServiceStub(channel).Recommend(pb.RecommendRequest(), timeout=10)
        assert isinstance(full.value, grpc.Call)
        assert full.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        for probe in ("ServerLive", "ServerReady"):
            assert channel.unary_unary(f"/inference.GRPCInferenceService/{probe}", None, None)(b"", timeout=10)
