"""The desk: calls that wait hold no thread, and whatever happens to one is answered once."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import grpc
import pytest

from server.api import visit as module
from server.api.deadlines import Deadlines
from server.api.desk import Desk
from server.api.edge import Awaited
from server.api.visit import can_desk
from server.app import App
from server.config import ServerSettings
from server.errors import Cancelled, DeadlineExceeded
from server.models.bundle import Bundle
from server.pb.swiftrec.v1 import recommender_pb2 as pb
from server.pb.swiftrec.v1.recommender_pb2_grpc import RecommenderServiceStub
from server.pipeline.call import Call

_PATH = "/test.Service/Ask"
_MANY = 300
Begin = Callable[[bytes, grpc.ServicerContext], Coroutine[Call, None, bytes]]


class Told(Desk):
    """A desk that says when a call has come, with its request or without."""

    def __init__(self, come: threading.Semaphore, *given: Any, **named: Any) -> None:  # noqa: ANN401
        super().__init__(*given, **named)
        self._come = come

    def submit(self, *work: Any) -> Any:  # type: ignore[override] # noqa: ANN401 (as the desk's own)
        try:
            return super().submit(*work)
        finally:
            self._come.release()


@contextmanager
def served(
    begin: Begin,
    limit: int | None = None,
    silence_s: float = 60.0,
    missed: Callable[[str], None] = lambda _code: None,
    come: threading.Semaphore | None = None,
) -> Iterator[grpc.Channel]:
    """A channel to a gRPC server with one method at a desk that has two threads for large requests."""
    deadlines, threads = Deadlines(), ThreadPoolExecutor(2)
    desk = Told(come or threading.Semaphore(0), threads, 1, deadlines, silence_s=silence_s)
    server = grpc.server(threads, options=[("grpc.so_reuseport", 0)], maximum_concurrent_rpcs=limit)
    handler = grpc.unary_unary_rpc_method_handler(Awaited(begin, desk, missed=missed))
    server.add_registered_method_handlers("test.Service", {"Ask": handler})  # type: ignore[attr-defined]
    port = server.add_insecure_port("127.0.0.1:0")
    deadlines.start()
    desk.start()
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    server.stop(0).wait()
    desk.stop()
    deadlines.stop()


@contextmanager
def serving(begin: Begin, limit: int | None = None) -> Iterator[grpc.UnaryUnaryMultiCallable[bytes, bytes]]:
    """That one method."""
    with served(begin, limit) as channel:
        yield channel.unary_unary(_PATH, None, None)


class Waiting:
    """A method that answers when it is told to."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.all_there = threading.Semaphore(0)
        self.ended: list[str] = []

    async def begin(self, data: bytes, _context: grpc.ServicerContext) -> bytes:
        call = Call(time.monotonic() + 60)
        call.expect(1)
        self.calls.append(call)
        self.all_there.release()
        await call
        return data + threading.current_thread().name.encode()


def test_calls_that_wait_hold_no_thread() -> None:
    method = Waiting()
    with serving(method.begin) as ask:
        before = threading.active_count()
        futures = [ask.future(b"x" * size, timeout=60) for size in (1, 10_000) for _ in range(_MANY // 2)]
        for _ in futures:
            assert method.all_there.acquire(timeout=30)
        assert threading.active_count() <= before + 3  # two that take large requests, one of the client
        for call in method.calls:
            call.arrived()
        assert {future.result().endswith(b"finish-0") for future in futures} == {True}


def test_answer_that_is_there_at_once_is_sent_at_once() -> None:
    async def begin(data: bytes, _context: grpc.ServicerContext) -> bytes:
        call = Call(time.monotonic() + 60)
        call.expect(1)
        call.arrived()
        await call
        return data

    with serving(begin) as ask:
        assert ask(b"yes", timeout=10) == b"yes"


@pytest.mark.parametrize("size", [1, 10_000])
def test_coroutine_that_raises_ends_its_call_and_no_other(size: int) -> None:
    async def begin(data: bytes, context: grpc.ServicerContext) -> bytes:
        if data.startswith(b"abort"):
            context.abort(grpc.StatusCode.NOT_FOUND, "not here")
        if data.startswith(b"bug"):
            raise ZeroDivisionError
        return b"fine"

    with serving(begin) as ask:
        for word, code in ((b"abort", grpc.StatusCode.NOT_FOUND), (b"bug", grpc.StatusCode.UNKNOWN)):
            with pytest.raises(grpc.RpcError) as caught:
                ask(word + b"." * size, timeout=10)
            assert isinstance(caught.value, grpc.Call)
            assert caught.value.code() is code
            assert ask(b"next", timeout=10) == b"fine"


def test_answer_that_cannot_be_sent_concerns_its_own_call_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[object] = []
    status = module._private._status

    def failing(*work: object) -> None:
        sent.append(work)
        if len(sent) == 1:
            raise ValueError("the first one fails")
        status(*work)

    async def begin(data: bytes, _context: grpc.ServicerContext) -> bytes:
        return data

    monkeypatch.setattr(module._private, "_status", failing)
    with serving(begin, limit=1) as ask:
        with pytest.raises(grpc.RpcError) as caught:
            ask(b"one", timeout=10)
        assert isinstance(caught.value, grpc.Call)
        assert caught.value.code() is grpc.StatusCode.CANCELLED  # said at once, not at the client's deadline
        assert ask(b"two", timeout=10) == b"two"  # its place was given back, and the poller lives


def test_call_whose_own_deadline_passes_is_ended_without_its_answer() -> None:
    async def begin(_data: bytes, _context: grpc.ServicerContext) -> bytes:
        call = Call(time.monotonic() + 0.05)
        call.expect(1)
        try:
            await call
        except DeadlineExceeded:
            return b"late"
        return b"never"

    with serving(begin) as ask:
        assert ask(b"", timeout=10) == b"late"


def test_client_that_goes_ends_its_coroutine() -> None:
    ended = threading.Event()

    async def begin(_data: bytes, context: grpc.ServicerContext) -> bytes:
        call = Call(time.monotonic() + 60)
        call.expect(1)
        context.add_callback(call.cancel)
        there.set()
        try:
            await call
        except Cancelled:
            ended.set()
            raise
        return b""

    there = threading.Event()
    with serving(begin) as ask:
        future = ask.future(b"", timeout=60)
        assert there.wait(10)
        future.cancel()  # type: ignore[no-untyped-call]
        assert ended.wait(10)


def test_call_without_a_message_is_refused() -> None:
    async def begin(_data: bytes, _context: grpc.ServicerContext) -> bytes:
        return b""

    missed: list[str] = []
    with served(begin, missed=missed.append) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.stream_unary(_PATH, None, None)(iter(()), timeout=10)
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert missed == ["UNIMPLEMENTED"]


def test_call_whose_request_does_not_come_gives_its_place_back() -> None:
    async def begin(data: bytes, _context: grpc.ServicerContext) -> bytes:
        return data

    missed: queue.Queue[str] = queue.Queue()
    never: queue.Queue[bytes | None] = queue.Queue()
    come = threading.Semaphore(0)
    with served(begin, limit=1, silence_s=0.3, missed=missed.put, come=come) as channel:
        ask = channel.unary_unary(_PATH, None, None)
        silent = channel.stream_unary(_PATH, None, None).future(iter(never.get, None), timeout=60)
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
        ask = channel.unary_unary(_PATH, None, None)
        for _ in range(3):  # a place that were not given back would be missing in the next round
            calls = [ask.future(b"x", timeout=60) for _ in range(_MANY)]
            for call in calls:
                call.add_done_callback(lambda done: over.put(done.code().name))  # type: ignore[attr-defined]
            codes = {over.get(timeout=30) for _ in calls}
            assert codes <= {"OK", "DEADLINE_EXCEEDED"}
    assert over.empty()


def test_bug_that_would_end_a_thread_ends_its_call_alone() -> None:
    async def begin(data: bytes, _context: grpc.ServicerContext) -> bytes:
        if data == b"later":
            call = Call(time.monotonic() + 0.05)
            call.expect(1)
            try:
                await call
            except DeadlineExceeded:
                raise SystemExit from None
        if data == b"now":
            raise SystemExit
        return data

    with serving(begin) as ask:
        for word in (b"now", b"later"):
            with pytest.raises(grpc.RpcError) as caught:
                ask(word, timeout=10)
            assert isinstance(caught.value, grpc.Call)
            assert caught.value.code() is grpc.StatusCode.UNKNOWN
        assert ask(b"next", timeout=10) == b"next"


def test_server_that_stops_ends_every_coroutine_that_waits() -> None:
    there, ended = threading.Semaphore(0), queue.Queue[str]()

    async def begin(_data: bytes, context: grpc.ServicerContext) -> bytes:
        call = Call(time.monotonic() + 60)
        call.expect(1)
        context.add_callback(call.cancel)
        there.release()
        try:
            await call
        except Cancelled:
            ended.put("cancelled")
            raise
        return b""

    with serving(begin) as ask:
        futures = [ask.future(b"x" * size, timeout=60) for size in (1, 10_000) for _ in range(20)]
        for _ in futures:
            assert there.acquire(timeout=30)
    assert [ended.get(timeout=10) for _ in futures] == ["cancelled"] * len(futures)
    assert all(future.code() is not grpc.StatusCode.OK for future in futures)


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
        assert app.metrics.calls.count("ServerLive", "UNIMPLEMENTED") == 40
    finally:
        app.stop()


def test_ended_calls_make_room_for_others_under_grpcs_own_limit() -> None:
    async def begin(data: bytes, _context: grpc.ServicerContext) -> bytes:
        return data

    with serving(begin, limit=1) as ask:
        for _ in range(50):
            assert ask(b"one", timeout=10, wait_for_ready=True) == b"one"


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("_FUNCTIONS", {"_what_a_later_grpcio_lacks": ()}),
        ("_FUNCTIONS", {"_abort": ("state", "another")}),
        ("_STATE", ("what_a_later_grpcio_lacks",)),
        ("_OPERATIONS", ("WhatALaterGrpcioLacks",)),
        ("_private", None),
        ("_cygrpc", None),
    ],
)
def test_server_answers_through_threads_where_grpc_has_no_place_for_a_desk(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, part: str, value: object
) -> None:
    monkeypatch.setattr(module, part, value)
    assert not can_desk()
    app = App(ServerSettings(bundle=[bundle.folder], port=0, metrics_port=0, _cli_parse_args=[]))
    app.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{app.port}") as channel:
            assert RecommenderServiceStub(channel).Recommend(pb.RecommendRequest(query="a western"), timeout=10).items
    finally:
        app.stop()


def test_this_grpcio_has_a_place_for_a_desk() -> None:
    assert can_desk()
