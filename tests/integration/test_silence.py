"""Calls whose request does not come: they hold no thread, and their place only for a time."""

from __future__ import annotations

import queue
import threading
from functools import partial

import grpc
import pytest

from server.app import App
from server.config import ServerSettings
from server.models.bundle import Bundle
from tests.integration.desks import PATH, Told, served

_MANY = 300


def test_call_without_a_message_is_refused() -> None:
    async def begin(_data: bytes, _context: grpc.ServicerContext) -> bytes:
        return b""

    missed: list[str] = []
    with served(begin, missed=missed.append) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.stream_unary(PATH, None, None)(iter(()), timeout=10)
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
        assert app.metrics.calls.count("ServerLive", "UNIMPLEMENTED") == 40
    finally:
        app.stop()
