"""Clients that send no request or read no response hold no thread, and only for a limited time."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from swiftrec.server.app import App
from swiftrec.server.config import ServerSettings
from swiftrec.server.front import grpc_adapter
from swiftrec.server.front.front import Front
from swiftrec.server.models.bundle import Bundle
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from swiftrec.server.pb.swiftrec.v1.recommender_pb2_grpc import RecommenderServiceStub
from swiftrec.server.ticket import Ticket
from tests.server.support.fronts import PATH, STREAM, Running, echo, serving
from tests.server.support.http2 import Peer
from tests.server.support.secure import CHECK, WATCH
from tests.until import LONG, until

_MANY = 300


_LIVE = "/inference.GRPCInferenceService/ServerLive"


def until_arrived(running: Running, number: int) -> None:
    """Wait until `number` calls wait for their request."""
    until(lambda: len(running.front.arrivals) == number, lambda: len(running.front.arrivals))


def test_call_without_a_message_is_refused() -> None:
    with serving(echo) as running:
        with pytest.raises(grpc.RpcError) as caught:
            running.channel.stream_unary(PATH, None, None)(iter(()), timeout=LONG)
        assert isinstance(caught.value, grpc.Call)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        running.until_counted("UNIMPLEMENTED")
        assert running.counts() == {"UNIMPLEMENTED": 1}
        assert len(running.front.arrivals) == 0


def test_silent_calls_hold_no_thread_and_are_counted_as_cancelled_when_cancelled() -> None:
    with serving(echo, calls=1) as running:
        assert running.ask(b"x", timeout=LONG) == b"x"
        before = threading.active_count()
        with Peer(running.port) as peer:
            for n in range(_MANY):
                peer.call(2 * n + 1, PATH)
            until_arrived(running, _MANY)
            assert threading.active_count() <= before
            assert running.ask(b"x", timeout=LONG) == b"x"  # they hold no place
            for n in range(_MANY):
                peer.cancel(2 * n + 1)
            running.until_counted("CANCELLED", _MANY)
        until_arrived(running, 0)
        assert running.counts() == {"CANCELLED": _MANY, "OK": 2}


@pytest.mark.usefixtures("each_front")
def test_silent_streams_hold_neither_thread_nor_slot() -> None:
    with serving(echo, calls=1, waiting=_MANY) as running, Peer(running.port) as peer:
        stream = running.channel.stream_stream(STREAM, None, None)
        assert list(stream(iter([b"x"]), timeout=LONG)) == [b"x"]
        before = threading.active_count()
        for n in range(_MANY):
            peer.call(2 * n + 1, STREAM)
        until_arrived(running, _MANY)
        assert threading.active_count() <= before
        until(lambda: running.front.limiters.streams.in_use == 0)
        assert list(stream(iter([b"x"]), timeout=LONG)) == [b"x"]  # the oldest made room for it
        running.until_counted("OK", 2, "Stream")
        for n in range(_MANY):
            peer.cancel(2 * n + 1)
        running.until_counted("CANCELLED", _MANY - 1, "Stream")
        assert running.counts("Stream") == {"OK": 2, "CANCELLED": _MANY - 1, "RESOURCE_EXHAUSTED": 1}


def test_refused_stream_gets_a_retry_delay_of_a_second() -> None:
    with serving(echo, calls=1) as running:
        index = running.front.limiters.streams.acquire()
        stream: Any = running.channel.stream_stream(STREAM, None, None)(iter([b"x"]), timeout=LONG)
        assert stream.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "try again in 1.00 s" in stream.details()
        assert dict(stream.trailing_metadata())["grpc-retry-pushback-ms"] == "1000"
        running.front.limiters.streams.release(index)


def test_evicted_silent_call_is_counted_under_its_method() -> None:
    with serving(echo, waiting=1) as running, Peer(running.port) as peer:
        peer.call(1, STREAM)
        until_arrived(running, 1)
        peer.call(3, PATH)
        running.until_counted("RESOURCE_EXHAUSTED", method="Stream")
        assert running.counts() == {}


def test_silent_call_is_counted_as_deadline_exceeded_when_its_deadline_passes() -> None:
    with serving(echo) as running:
        silent, messages = running.silent(timeout=0.3)
        assert silent.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        running.until_counted("DEADLINE_EXCEEDED")
        messages.put(None)
        assert running.counts() == {"DEADLINE_EXCEEDED": 1}


def test_server_ends_a_call_when_its_request_does_not_arrive_in_time() -> None:
    with serving(echo, first_message_timeout_s=0.1) as running:
        silent, messages = running.silent(timeout=LONG, metadata=(("x-request-id", "mine"),))
        assert silent.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "did not arrive in time" in silent.details()
        assert dict(silent.trailing_metadata())["x-request-id"] == "mine"
        running.until_counted("DEADLINE_EXCEEDED")
        messages.put(None)
        assert running.counts() == {"DEADLINE_EXCEEDED": 1}


def test_oldest_silent_calls_are_evicted_beyond_the_limit() -> None:
    with serving(echo, waiting=2) as running:
        silent = []
        for n in range(5):
            silent.append(running.silent(timeout=LONG))
            until(lambda n=n: _entered(running) == n + 1)  # type: ignore[misc] # its default is n
        assert [call.code() for call, _ in silent[:3]] == [grpc.StatusCode.RESOURCE_EXHAUSTED] * 3
        assert "wait for their request" in silent[0][0].details()
        assert "grpc-retry-pushback-ms" in dict(silent[0][0].trailing_metadata())
        assert running.ask(b"x", timeout=LONG) == b"x"
        running.until_counted("RESOURCE_EXHAUSTED", 4)
        silent[4][1].put(b"late")
        silent[4][1].put(None)
        assert silent[4][0].result(LONG) == b"late"
        for _, messages in silent[:4]:
            messages.put(None)


def _entered(running: Running) -> int:
    return len(running.front.arrivals) + sum(running.counts().values())


def test_requests_that_arrive_at_their_timeout_are_answered_or_refused_once() -> None:
    over: queue.Queue[str] = queue.Queue()
    with serving(echo, first_message_timeout_s=0.004) as running:
        for n in range(3):
            calls = [running.ask.future(b"x", timeout=LONG) for _ in range(_MANY)]
            for call in calls:
                call.add_done_callback(lambda done: over.put(done.code().name))  # type: ignore[attr-defined]
            codes = [over.get(timeout=LONG) for _ in calls]
            assert set(codes) <= {"OK", "DEADLINE_EXCEEDED"}
            until(lambda n=n: sum(running.counts().values()) == _MANY * (n + 1))  # type: ignore[misc] # its default is n
        until(lambda: running.front.limiters.calls.in_use == 0)
    assert over.empty()


def test_stream_ends_after_its_responses_when_no_message_arrives() -> None:
    for first_s, next_s, messages in ((0.1, 60.0, []), (60.0, 0.1, [b"one", b"two"])):
        with serving(echo, first_message_timeout_s=first_s, next_message_timeout_s=next_s) as running:
            silence: queue.Queue[bytes | None] = queue.Queue()
            for message in messages:
                silence.put(message)
            stream = running.channel.stream_stream(STREAM, None, None)(iter(silence.get, None), timeout=LONG)
            replies: list[bytes] = []
            with pytest.raises(grpc.RpcError) as caught:
                replies.extend(stream)
            silence.put(None)
            assert isinstance(caught.value, grpc.Call)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            reason = "--max-stream-idle-s" if messages else "the request did not arrive in time"
            assert reason in (caught.value.details() or "")
            assert replies == messages
            running.until_counted("DEADLINE_EXCEEDED", method="Stream")
            until(lambda running=running: running.front.limiters.streams.in_use == 0)


def test_stream_without_an_idle_limit_continues() -> None:
    with serving(echo, first_message_timeout_s=0.05, next_message_timeout_s=0) as running:
        messages: queue.Queue[bytes | None] = queue.Queue()
        stream: Any = running.channel.stream_stream(STREAM, None, None)(iter(messages.get, None), timeout=LONG)
        messages.put(b"one")
        assert next(stream) == b"one"
        other, _ = running.silent(timeout=LONG)
        assert other.code() is grpc.StatusCode.DEADLINE_EXCEEDED  # as long as the stream may wait for its first
        messages.put(b"two")
        assert next(stream) == b"two"
        messages.put(None)
        assert list(stream) == []


def test_silent_calls_of_a_local_method_hold_no_thread(bundle: Bundle) -> None:
    with _running(bundle, calls=4) as (app, channel):
        with Peer(app.port) as peer:
            for n in range(_MANY):
                peer.call(2 * n + 1, _LIVE)
            peer.ping()
            assert channel.unary_unary(_LIVE, None, None)(b"", timeout=LONG)
        until(lambda: app.metrics.calls.count("ServerLive", "CANCELLED") == _MANY)


def test_headers_without_requests_block_neither_calls_nor_health(bundle: Bundle) -> None:
    with _running(bundle, calls=16) as (app, channel):
        with Peer(app.port) as first, Peer(app.port) as second, Peer(app.port) as third:
            for n in range(1_000):
                first.call(2 * n + 1, "/swiftrec.v1.RecommenderService/Recommend")
                second.call(2 * n + 1, CHECK)
                third.call(2 * n + 1, _LIVE)
            for peer in (first, second, third):
                peer.ping()
            health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=LONG)
            assert health.status == health_pb2.HealthCheckResponse.SERVING
            assert RecommenderServiceStub(channel).Recommend(pb.RecommendRequest(), timeout=LONG).items
        until(lambda: app.metrics.calls.count("Recommend", "CANCELLED") == 1_000)


@contextmanager
def _running(bundle: Bundle, calls: int) -> Iterator[tuple[App, grpc.Channel]]:
    app = App(ServerSettings(bundle=[bundle.folder], port=0, metrics_port=0, max_calls=calls, _cli_parse_args=[]))
    app.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{app.port}") as channel:
            yield app, channel
    finally:
        app.stop()


def test_silent_watchers_are_ended_and_hold_neither_slot_nor_thread(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swiftrec.server.app.Front", partial(Front, first_message_timeout_s=0.3))
    with _running(bundle, calls=4) as (app, channel), Peer(app.port) as peer:
        assert channel.unary_unary(CHECK, None, None)(b"", timeout=LONG)
        before = threading.active_count()
        for n in range(_MANY):
            peer.call(2 * n + 1, WATCH)
        peer.ping()
        watching = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=LONG)
        assert next(watching).status == health_pb2.HealthCheckResponse.SERVING
        assert threading.active_count() < before + _MANY / 2  # the channel has a few threads too
        watching.cancel()
        until(lambda: app.metrics.calls.count("Watch", "DEADLINE_EXCEEDED") == _MANY)


def test_full_server_reports_that_it_is_alive(bundle: Bundle) -> None:
    with _running(bundle, calls=1) as (app, channel):
        app.limiters.calls.acquire()
        with pytest.raises(grpc.RpcError) as full:
            RecommenderServiceStub(channel).Recommend(pb.RecommendRequest(), timeout=LONG)
        assert isinstance(full.value, grpc.Call)
        assert full.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=LONG)
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        for probe in ("ServerLive", "ServerReady"):
            assert channel.unary_unary(f"/inference.GRPCInferenceService/{probe}", None, None)(b"", timeout=LONG)


_ANSWER = b"x" * 100_000


_WINDOW = 1_000  # bytes that the client takes


def long_answer(ticket: Ticket) -> None:
    """More than the client takes, or nothing for a client that takes everything."""
    ticket.done(_ANSWER if ticket.message == b"long" else b"")


def leave_unread(running: Running, peer: Peer, calls: int) -> None:
    """Make calls whose long responses the client does not read."""
    for n in range(calls):
        peer.call(2 * n + 1, PATH)
        peer.send(2 * n + 1, b"long")
    until(lambda: running.front.unsent.bytes == calls * len(_ANSWER))


def refusal(running: Running) -> str:
    """Why another call is refused."""
    with pytest.raises(grpc.RpcError) as caught:
        running.ask(b"", timeout=LONG)
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    return caught.value.details() or ""


@pytest.mark.skipif("config.getoption('front') == 'aio'", reason="grpc.aio cannot cancel a call")
def test_unread_response_holds_its_slot_until_the_send_timeout() -> None:
    with serving(long_answer, calls=3, send_timeout_s=1.0) as running, Peer(running.port, _WINDOW) as peer:
        leave_unread(running, peer, 3)
        refusal(running)
        running.until_counted("CANCELLED", 3)
        until(lambda: running.front.unsent.bytes == 0)
        assert running.ask(b"", timeout=LONG) == b""
        running.until_counted("OK")
        assert running.counts() == {"CANCELLED": 3, "OK": 1, "RESOURCE_EXHAUSTED": 1}


def test_unread_responses_over_grpc_aio_hold_their_slots_until_the_connection_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(grpc_adapter, "_private", None)
    with serving(long_answer, calls=3, send_timeout_s=0.05) as running:
        with Peer(running.port, _WINDOW) as peer:
            leave_unread(running, peer, 2)
            peer.call(5, STREAM)
            peer.send(5, b"long", ends=False)
            until(lambda: running.front.unsent.bytes == 3 * len(_ANSWER))
            assert running.ask(b"", timeout=LONG) == b""
            until(lambda: (running.front.limiters.calls.in_use, running.front.limiters.streams.in_use) == (2, 1))
        running.until_counted("CANCELLED", 2)
        running.until_counted("CANCELLED", method="Stream")
        until(lambda: running.front.unsent.bytes == 0)
        until(lambda: (running.front.limiters.calls.in_use, running.front.limiters.streams.in_use) == (0, 0))


@pytest.mark.usefixtures("each_front")
@pytest.mark.parametrize("method", [PATH, STREAM])
def test_unread_response_ends_at_the_deadline_of_the_client(method: str) -> None:
    with serving(long_answer) as running, Peer(running.port, _WINDOW) as peer:
        peer.call(1, method, "500m")
        peer.send(1, b"long", ends=False)
        until(lambda: running.front.unsent.bytes == len(_ANSWER))
        running.until_counted("DEADLINE_EXCEEDED", method=method.rpartition("/")[2])
        until(lambda: running.front.unsent.bytes == 0)
        until(lambda: running.front.limiters.calls.in_use + running.front.limiters.streams.in_use == 0)


@pytest.mark.usefixtures("each_front")
def test_calls_are_refused_while_too_many_bytes_are_unread() -> None:
    with serving(long_answer, unsent_bytes=len(_ANSWER)) as running:
        with Peer(running.port, _WINDOW) as peer:
            leave_unread(running, peer, 2)
            assert "have not been read by their clients" in refusal(running)
            until(lambda: running.front.limiters.calls.in_use == 2)  # that of the refused call was given back
        until(lambda: running.front.unsent.bytes == 0)
        assert running.ask(b"", timeout=LONG) == b""


@pytest.mark.usefixtures("each_front")
def test_unread_replies_of_a_stream_are_bounded() -> None:
    with serving(long_answer, unsent_bytes=3 * len(_ANSWER)) as running:
        with Peer(running.port, _WINDOW) as peer:
            peer.call(1, STREAM)
            for n in range(4):
                peer.send(1, b"long", ends=False)
                until(lambda n=n: running.front.unsent.bytes == (n + 1) * len(_ANSWER))  # type: ignore[misc] # it is n now
            assert "have not been read by their clients" in refusal(running)
            stream = running.channel.stream_stream(STREAM, None, None)(iter([b""]), timeout=LONG)
            with pytest.raises(grpc.RpcError):
                next(iter(stream))
            assert stream.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        until(lambda: running.front.unsent.bytes == 0)


@pytest.mark.skipif("config.getoption('front') == 'aio'", reason="grpc.aio cannot cancel a call")
def test_unread_stream_ends_at_the_send_timeout() -> None:
    with serving(long_answer, send_timeout_s=0.5) as running, Peer(running.port, _WINDOW) as peer:
        peer.call(1, STREAM)
        for _ in range(3):
            peer.send(1, b"long", ends=False)
        until(lambda: running.front.limiters.streams.in_use == 1)
        running.until_counted("CANCELLED", method="Stream")
        until(lambda: running.front.limiters.streams.in_use == 0)
        until(lambda: running.front.unsent.bytes == 0)
