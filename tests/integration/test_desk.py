"""The desk: calls that wait hold no thread, and whatever happens to one is answered once."""

from __future__ import annotations

import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from server.api import visit as module
from server.api.deadlines import Deadlines
from server.api.desk import Desk
from server.api.visit import can_desk
from server.app import App
from server.config import ServerSettings
from server.errors import Cancelled, DeadlineExceeded
from server.models.bundle import Bundle
from server.pb.swiftrec.v1 import recommender_pb2 as pb
from server.pb.swiftrec.v1.recommender_pb2_grpc import RecommenderServiceStub
from server.pipeline.call import Call
from tests.integration.desks import serving

_MANY = 300


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


def test_what_comes_after_an_answer_that_is_there_is_nothing_for_the_polling_thread() -> None:
    async def begin(_data: bytes, _context: grpc.ServicerContext) -> bytes:
        first = threading.current_thread().name
        await Call(time.monotonic() + 60)
        return f"{first} {threading.current_thread().name}".encode()

    with serving(begin) as ask:
        first, second = ask(b"x", timeout=10).decode().rsplit(maxsplit=1)
    assert second.startswith("finish-")
    assert not first.startswith("finish-")


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


def test_finishing_thread_that_dies_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    dead: list[bool] = []

    def broken(_desk: Desk, _visit: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Desk, "go_on", broken)
    desk = Desk(ThreadPoolExecutor(1), 1, Deadlines(), on_death=lambda: dead.append(True))
    desk._through.put(object())  # type: ignore[arg-type] # what it is does not matter
    with pytest.raises(MemoryError):
        desk._finish()
    assert dead == [True]


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
