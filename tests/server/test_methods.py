"""Methods over both adapters: limits, statuses, counts, and unary calls without threads."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from swiftrec.server.errors import InvalidRequest, NotFound, SwiftrecError
from swiftrec.server.front.methods import Handler
from swiftrec.server.ticket import Reply, Ticket
from tests.server.support.fronts import PATH, STREAM, Running, echo, serving, write_error
from tests.server.support.http2 import Peer
from tests.until import LONG, until

pytestmark = pytest.mark.usefixtures("each_front")


def ended_streams(running: Running) -> dict[str, int]:
    """Counts of streams by code, once no stream runs."""
    until(lambda: running.front.limiters.streams.in_use == 0)
    until(lambda: bool(running.counts("Stream")))
    return running.counts("Stream")


@pytest.mark.parametrize("timeout", [LONG, None])
def test_stream_read_to_the_end_is_counted_as_ok(timeout: float | None) -> None:
    with serving(echo) as running:
        assert list(running.channel.stream_stream(STREAM, None, None)(iter([b"1", b"2"]), timeout=timeout)) == [
            b"1",
            b"2",
        ]
        assert ended_streams(running) == {"OK": 1}
        assert running.front.unsent.bytes == 0


@pytest.mark.parametrize("is_answered", [False, True])
def test_stream_is_counted_as_cancelled_when_its_client_leaves(is_answered: bool) -> None:
    messages: queue.Queue[bytes | None] = queue.Queue()
    with serving(echo if is_answered else lambda _ticket: None) as running:
        stream: Any = running.channel.stream_stream(STREAM, None, None)(iter(messages.get, None), timeout=LONG)
        messages.put(b"1")
        if is_answered:
            assert next(stream) == b"1"
        else:
            running.link.next()
        stream.cancel()
        assert ended_streams(running) == {"CANCELLED": 1}
        messages.put(None)


@pytest.mark.parametrize("is_silent", [False, True])
def test_stream_is_counted_as_deadline_exceeded_when_its_deadline_passes(is_silent: bool) -> None:
    messages: queue.Queue[bytes | None] = queue.Queue()
    with serving() as running:
        stream: Any = running.channel.stream_stream(STREAM, None, None)(iter(messages.get, None), timeout=0.3)
        if not is_silent:
            messages.put(b"1")
        with pytest.raises(grpc.RpcError):
            next(stream)
        assert ended_streams(running) == {"DEADLINE_EXCEEDED": 1}
        messages.put(None)


def test_stream_is_not_counted_as_ok_when_its_client_leaves_before_the_last_response() -> None:
    def behaviour(_messages: Iterator[bytes], _context: grpc.ServicerContext) -> Iterator[bytes]:
        peer.cancel(1)
        peer.ping()
        yield from ()

    handler = grpc.stream_stream_rpc_method_handler(behaviour)
    with serving(handler=handler) as running, Peer(running.port) as peer:
        peer.call(1, PATH)
        peer.send(1, b"", ends=False)
        running.until_counted("CANCELLED")
        assert running.counts() == {"CANCELLED": 1}


def _one(message: bytes, _context: grpc.ServicerContext) -> Any:  # noqa: ANN401 (what its shape wants)
    if message == b"bad":
        raise InvalidRequest("query", "must be good")
    if message == b"bug":
        raise ZeroDivisionError
    return message


def _several(message: bytes, given: grpc.ServicerContext) -> Iterator[bytes]:
    yield b"first"
    yield _one(message, given)


def _joined(messages: Iterator[bytes], given: grpc.ServicerContext) -> bytes:
    return b"".join(_one(message, given) for message in messages)


def _mapped(messages: Iterator[bytes], given: grpc.ServicerContext) -> Iterator[bytes]:
    for message in messages:
        yield _one(message, given)


_SHAPES: dict[str, tuple[Handler, list[bytes]]] = {
    "unary_stream": (grpc.unary_stream_rpc_method_handler(_several), [b"first", b"good"]),
    "stream_unary": (grpc.stream_unary_rpc_method_handler(_joined), [b"good"]),
    "stream_stream": (grpc.stream_stream_rpc_method_handler(_mapped), [b"good"]),
}


@pytest.mark.parametrize("shape", _SHAPES)
def test_every_kind_of_method_is_limited_and_counted_with_a_status_for_errors(shape: str) -> None:
    handler, answers = _SHAPES[shape]
    with serving(handler=handler, calls=1) as running:
        ask = running.channel.stream_stream(PATH, None, None)
        call: Any = ask(iter([b"good"]), timeout=LONG, metadata=(("x-request-id", "mine"),))
        assert list(call) == answers
        until(lambda: running.front.limiters.streams.in_use == 0)
        assert ("x-request-id", "mine") in [tuple(entry) for entry in call.trailing_metadata()]
        for message, code in ((b"bad", "INVALID_ARGUMENT"), (b"bug", "INTERNAL")):
            with pytest.raises(grpc.RpcError) as caught:
                list(ask(iter([message]), timeout=LONG, metadata=(("x-request-id", "mine"),)))
            assert isinstance(caught.value, grpc.Call)
            assert caught.value.code().name == code
            assert "x-request-id" in dict(caught.value.trailing_metadata())
            assert "ZeroDivision" not in (caught.value.details() or "")
            until(lambda: running.front.limiters.streams.in_use == 0)
        index = running.front.limiters.streams.acquire()
        with pytest.raises(grpc.RpcError) as full:
            list(ask(iter([b"good"]), timeout=LONG))
        assert isinstance(full.value, grpc.Call)
        assert full.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        running.front.limiters.streams.release(index)
        until(lambda: sum(running.counts().values()) == 4)
        assert running.counts() == {"OK": 1, "INVALID_ARGUMENT": 1, "INTERNAL": 1, "RESOURCE_EXHAUSTED": 1}


@pytest.mark.parametrize("shape", ["unary_stream", "stream_unary", "stream_stream"])
def test_every_kind_of_method_has_a_timeout_for_its_first_message(shape: str) -> None:
    with serving(handler=_SHAPES[shape][0], first_message_timeout_s=0.1) as running:
        call, messages = running.silent(timeout=LONG)
        assert call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        running.until_counted("DEADLINE_EXCEEDED")
        messages.put(None)
        until(lambda: running.front.limiters.streams.in_use == 0)


@pytest.mark.parametrize("shape", ["stream_unary", "stream_stream"])
def test_local_stream_has_a_timeout_for_the_next_message(shape: str) -> None:
    with serving(handler=_SHAPES[shape][0], next_message_timeout_s=0.1) as running:
        call, messages = running.silent(timeout=LONG)
        messages.put(b"good")
        assert call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "--max-stream-idle-s" in call.details()
        running.until_counted("DEADLINE_EXCEEDED")
        messages.put(None)


def test_local_unary_method_has_a_status_for_its_errors() -> None:
    def answer(_message: object, given: grpc.ServicerContext) -> Any:  # noqa: ANN401 (a message of the contract)
        metadata = dict(given.invocation_metadata())
        if metadata.get("do") == "fail":
            raise NotFound("no such model")
        given.set_code(grpc.StatusCode.NOT_FOUND)
        return SimpleNamespace(SerializeToString=lambda: b"there")

    with serving(handler=grpc.unary_unary_rpc_method_handler(answer)) as running:
        with pytest.raises(grpc.RpcError) as malformed:
            running.ask(b"\xff", timeout=LONG)
        assert isinstance(malformed.value, grpc.Call)
        assert malformed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        for do in ("fail", "set"):
            with pytest.raises(grpc.RpcError) as caught:
                running.ask(b"", timeout=LONG, metadata=(("do", do),))
            assert isinstance(caught.value, grpc.Call)
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        running.until_counted("NOT_FOUND", 2)
        assert running.counts() == {"INVALID_ARGUMENT": 1, "NOT_FOUND": 2}
        until(lambda: running.front.limiters.control.in_use == 0)


_MANY = 300


def code_of(call: object) -> grpc.StatusCode:
    """The code of a call that was refused, from its error or its future."""
    assert isinstance(call, grpc.Call)
    return call.code()


def test_waiting_calls_hold_no_thread() -> None:
    with serving() as running:
        first = running.ask.future(b"", timeout=LONG)  # the client starts its own threads
        held = running.link.next()
        before = threading.active_count()
        calls = [running.ask.future(b"x" * size, timeout=LONG) for size in (1, 10_000) for _ in range(_MANY // 2)]
        tickets = [running.link.next() for _ in calls]
        assert threading.active_count() <= before + 1
        assert running.front.limiters.calls.in_use == _MANY + 1
        for ticket in reversed(tickets):
            ticket.done(ticket.message)
        held.done(b"")
        assert first.result() == b""
        assert sorted(len(call.result()) for call in calls) == sorted(len(ticket.message) for ticket in tickets)


def test_immediate_reply_is_sent_immediately() -> None:
    with serving(echo) as running:
        assert running.ask(b"yes", timeout=LONG) == b"yes"
        running.until_counted("OK")
        until(lambda: running.front.limiters.calls.in_use == 0)


@pytest.mark.parametrize(
    ("reply", "code"),
    [(InvalidRequest("query", "must be shorter"), "INVALID_ARGUMENT"), (SwiftrecError("ours"), "INTERNAL")],
)
def test_error_of_a_call_ends_only_it(reply: SwiftrecError, code: str) -> None:
    def answer(ticket: Ticket) -> None:
        ticket.done(ticket.message if ticket.message else reply)

    with serving(answer) as running:
        with pytest.raises(grpc.RpcError) as caught:
            running.ask(b"", timeout=LONG)
        assert code_of(caught.value).name == code
        assert running.ask(b"next", timeout=LONG) == b"next"
        running.until_counted("OK")
        assert running.counts() == {"OK": 1, code: 1}


def test_exception_on_dispatch_ends_only_its_call(caplog: pytest.LogCaptureFixture) -> None:
    def answer(ticket: Ticket) -> None:
        if ticket.message == b"bug":
            raise ZeroDivisionError
        ticket.done(ticket.message)

    with serving(answer) as running:
        with pytest.raises(grpc.RpcError) as caught:
            running.ask(b"bug", timeout=LONG)
        assert code_of(caught.value) is grpc.StatusCode.INTERNAL
        assert "ZeroDivisionError" not in str(caught.value)
        assert running.ask(b"next", timeout=LONG) == b"next"
        running.until_counted("INTERNAL")


def test_exception_on_admission_ends_only_its_call_and_not_the_polling_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(echo) as running:
        with monkeypatch.context() as patch:
            patch.setattr(running.front.arrivals, "admit", lambda _refuse: 1 / 0)
            with pytest.raises(grpc.RpcError) as caught:
                running.ask(b"one", timeout=LONG)
        assert code_of(caught.value) in {grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL}
        assert running.ask(b"two", timeout=LONG) == b"two"


def test_disconnect_cancels_the_call_in_the_worker_and_releases_its_slot() -> None:
    with serving(calls=1) as running:
        call = running.ask.future(b"", timeout=LONG)
        ticket = running.link.next()
        call.cancel()  # type: ignore[no-untyped-call]
        assert running.link.cancelled.get(timeout=LONG) is ticket
        ticket.done(b"too late")
        running.until_counted("CANCELLED")
        assert running.counts() == {"CANCELLED": 1}
        until(lambda: running.front.limiters.calls.in_use == 0)


def test_cancel_during_the_reply_is_counted_once_as_the_client_saw_it() -> None:
    with serving() as running:
        calls = [running.ask.future(b"x", timeout=LONG) for _ in range(_MANY)]
        tickets = [running.link.next() for _ in calls]
        for call, ticket in zip(calls, tickets, strict=True):
            gone = threading.Thread(target=call.cancel)
            gone.start()
            ticket.done(b"y")
            gone.join()
        saw_ok = sum(call.code() is grpc.StatusCode.OK for call in calls)
        until(lambda: sum(running.counts().values()) == _MANY, running.counts)
        assert set(running.counts()) <= {"OK", "CANCELLED"}
        assert running.counts().get("OK", 0) >= saw_ok
        until(lambda: running.front.limiters.calls.in_use == 0)


def test_response_to_a_disconnected_client_is_not_counted_as_ok() -> None:
    def answer(ticket: Ticket) -> None:  # in gRPC's polling thread, so that the server cannot hear of the cancel before
        peer.cancel(1)
        peer.ping()
        ticket.done(b"y" * 100_000)

    with serving(answer) as running, Peer(running.port) as peer:
        peer.call(1, PATH)
        peer.send(1, b"x")
        running.until_counted("CANCELLED")
        assert running.counts() == {"CANCELLED": 1}
        assert running.link.cancelled.empty()  # the worker's reply was given to gRPC


def test_server_ends_a_call_when_its_deadline_passes_in_the_worker() -> None:
    with serving(timeout_s=0.1) as running:
        with pytest.raises(grpc.RpcError) as caught:
            running.ask(b"", timeout=LONG, metadata=(("x-request-id", "late"),))
        assert code_of(caught.value) is grpc.StatusCode.DEADLINE_EXCEEDED
        assert isinstance(caught.value, grpc.Call)
        assert ("x-request-id", "late") in [tuple(entry) for entry in caught.value.trailing_metadata()]
        assert running.link.cancelled.get(timeout=LONG).message == b""
        running.until_counted("DEADLINE_EXCEEDED")


def test_error_can_be_sent_as_a_response() -> None:
    def written(_ticket: Ticket, error: SwiftrecError) -> Reply:
        return type(error).__name__.encode()

    with serving(timeout_s=0.1, write_error=written) as running:
        assert running.ask(b"", timeout=LONG) == b"DeadlineExceeded"
    assert write_error is not written


def test_second_reply_to_a_call_is_dropped() -> None:
    def twice(ticket: Ticket) -> None:
        done = ticket.done
        done(b"first")
        done(b"second")

    with serving(twice) as running:
        assert running.ask(b"", timeout=LONG) == b"first"
        running.until_counted("OK")
        assert running.counts() == {"OK": 1}


def test_immediate_stop_cancels_every_call_in_the_worker() -> None:
    with serving() as running:
        calls = [running.ask.future(b"x" * size, timeout=LONG) for size in (1, 10_000) for _ in range(20)]
        tickets = [running.link.next() for _ in calls]
    assert {id(running.link.cancelled.get(timeout=LONG)) for _ in calls} == {id(ticket) for ticket in tickets}
    assert all(call.code() is not grpc.StatusCode.OK for call in calls)
    assert running.front.limiters.calls.in_use == 0


def test_ended_calls_release_their_slots() -> None:
    with serving(echo, calls=1) as running:
        for _ in range(50):
            assert running.ask(b"one", timeout=LONG) == b"one"
            until(lambda: running.front.limiters.calls.in_use == 0)


def test_call_beyond_the_limit_is_refused_with_its_retry_and_counted() -> None:
    with serving(calls=1) as running:
        held = running.ask.future(b"", timeout=LONG)
        running.link.next()
        with pytest.raises(grpc.RpcError) as caught:
            running.ask(b"", timeout=LONG)
        assert code_of(caught.value) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert isinstance(caught.value, grpc.Call)
        assert "grpc-retry-pushback-ms" in dict(caught.value.trailing_metadata())
        running.until_counted("RESOURCE_EXHAUSTED")
        assert not held.done()
