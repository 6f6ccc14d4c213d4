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


def ended_streams(one: Running) -> dict[str, int]:
    """Counts of streams by code, once no stream runs."""
    until(lambda: one.front.limiters.streams.in_use == 0)
    until(lambda: bool(one.counts("Stream")))
    return one.counts("Stream")


@pytest.mark.parametrize("timeout", [LONG, None])
def test_stream_that_its_client_reads_to_the_end_is_counted_as_answered(timeout: float | None) -> None:
    with serving(echo) as one:
        assert list(one.channel.stream_stream(STREAM, None, None)(iter([b"1", b"2"]), timeout=timeout)) == [b"1", b"2"]
        assert ended_streams(one) == {"OK": 1}
        assert one.front.unsent.bytes == 0


@pytest.mark.parametrize("is_answered", [False, True])
def test_stream_that_its_client_leaves_is_counted_as_cancelled(is_answered: bool) -> None:
    messages: queue.Queue[bytes | None] = queue.Queue()
    with serving(echo if is_answered else lambda _ticket: None) as one:
        stream: Any = one.channel.stream_stream(STREAM, None, None)(iter(messages.get, None), timeout=LONG)
        messages.put(b"1")
        if is_answered:
            assert next(stream) == b"1"
        else:
            one.link.next()
        stream.cancel()
        assert ended_streams(one) == {"CANCELLED": 1}
        messages.put(None)


@pytest.mark.parametrize("is_silent", [False, True])
def test_stream_whose_deadline_passes_is_counted_as_that(is_silent: bool) -> None:
    messages: queue.Queue[bytes | None] = queue.Queue()
    with serving() as one:
        stream: Any = one.channel.stream_stream(STREAM, None, None)(iter(messages.get, None), timeout=0.3)
        if not is_silent:
            messages.put(b"1")
        with pytest.raises(grpc.RpcError):
            next(stream)
        assert ended_streams(one) == {"DEADLINE_EXCEEDED": 1}
        messages.put(None)


def test_stream_whose_last_answer_its_client_does_not_wait_for_is_not_counted_as_answered() -> None:
    def behaviour(_messages: Iterator[bytes], _context: grpc.ServicerContext) -> Iterator[bytes]:
        peer.cancel(1)
        peer.ping()
        yield from ()

    handler = grpc.stream_stream_rpc_method_handler(behaviour)
    with serving(handler=handler) as one, Peer(one.port) as peer:
        peer.call(1, PATH)
        peer.send(1, b"", ends=False)
        one.until_counted("CANCELLED")
        assert one.counts() == {"CANCELLED": 1}


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
def test_method_of_any_shape_is_limited_counted_and_its_errors_have_a_status(shape: str) -> None:
    handler, answers = _SHAPES[shape]
    with serving(handler=handler, calls=1) as one:
        ask = one.channel.stream_stream(PATH, None, None)
        call: Any = ask(iter([b"good"]), timeout=LONG, metadata=(("x-request-id", "mine"),))
        assert list(call) == answers
        until(lambda: one.front.limiters.streams.in_use == 0)
        assert ("x-request-id", "mine") in [tuple(entry) for entry in call.trailing_metadata()]
        for message, code in ((b"bad", "INVALID_ARGUMENT"), (b"bug", "INTERNAL")):
            with pytest.raises(grpc.RpcError) as caught:
                list(ask(iter([message]), timeout=LONG, metadata=(("x-request-id", "mine"),)))
            assert isinstance(caught.value, grpc.Call)
            assert caught.value.code().name == code
            assert "x-request-id" in dict(caught.value.trailing_metadata())
            assert "ZeroDivision" not in (caught.value.details() or "")
            until(lambda: one.front.limiters.streams.in_use == 0)
        index = one.front.limiters.streams.acquire()
        with pytest.raises(grpc.RpcError) as full:
            list(ask(iter([b"good"]), timeout=LONG))
        assert isinstance(full.value, grpc.Call)
        assert full.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        one.front.limiters.streams.release(index)
        until(lambda: sum(one.counts().values()) == 4)
        assert one.counts() == {"OK": 1, "INVALID_ARGUMENT": 1, "INTERNAL": 1, "RESOURCE_EXHAUSTED": 1}


@pytest.mark.parametrize("shape", ["unary_stream", "stream_unary", "stream_stream"])
def test_method_of_any_shape_gets_its_first_message_in_time(shape: str) -> None:
    with serving(handler=_SHAPES[shape][0], first_message_timeout_s=0.1) as one:
        call, messages = one.silent(timeout=LONG)
        assert call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        one.until_counted("DEADLINE_EXCEEDED")
        messages.put(None)
        until(lambda: one.front.limiters.streams.in_use == 0)


@pytest.mark.parametrize("shape", ["stream_unary", "stream_stream"])
def test_local_stream_gets_its_next_message_in_time(shape: str) -> None:
    with serving(handler=_SHAPES[shape][0], next_message_timeout_s=0.1) as one:
        call, messages = one.silent(timeout=LONG)
        messages.put(b"good")
        assert call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "--max-stream-idle-s" in call.details()
        one.until_counted("DEADLINE_EXCEEDED")
        messages.put(None)


def test_unary_method_that_is_answered_here_has_a_status_for_its_errors() -> None:
    def answer(_message: object, given: grpc.ServicerContext) -> Any:  # noqa: ANN401 (a message of the contract)
        metadata = dict(given.invocation_metadata())
        if metadata.get("do") == "fail":
            raise NotFound("no such model")
        given.set_code(grpc.StatusCode.NOT_FOUND)
        return SimpleNamespace(SerializeToString=lambda: b"there")

    with serving(handler=grpc.unary_unary_rpc_method_handler(answer)) as one:
        with pytest.raises(grpc.RpcError) as malformed:
            one.ask(b"\xff", timeout=LONG)
        assert isinstance(malformed.value, grpc.Call)
        assert malformed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        for do in ("fail", "set"):
            with pytest.raises(grpc.RpcError) as caught:
                one.ask(b"", timeout=LONG, metadata=(("do", do),))
            assert isinstance(caught.value, grpc.Call)
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        one.until_counted("NOT_FOUND", 2)
        assert one.counts() == {"INVALID_ARGUMENT": 1, "NOT_FOUND": 2}
        until(lambda: one.front.limiters.control.in_use == 0)


_MANY = 300


def code_of(call: object) -> grpc.StatusCode:
    """The code of a call that was refused, from its error or its future."""
    assert isinstance(call, grpc.Call)
    return call.code()


def test_calls_that_wait_hold_no_thread() -> None:
    with serving() as one:
        first = one.ask.future(b"", timeout=LONG)  # the client starts its own threads
        held = one.link.next()
        before = threading.active_count()
        calls = [one.ask.future(b"x" * size, timeout=LONG) for size in (1, 10_000) for _ in range(_MANY // 2)]
        tickets = [one.link.next() for _ in calls]
        assert threading.active_count() <= before + 1
        assert one.front.limiters.calls.in_use == _MANY + 1
        for ticket in reversed(tickets):
            ticket.done(ticket.message)
        held.done(b"")
        assert first.result() == b""
        assert sorted(len(call.result()) for call in calls) == sorted(len(ticket.message) for ticket in tickets)


def test_reply_that_is_there_at_once_is_sent_at_once() -> None:
    with serving(echo) as one:
        assert one.ask(b"yes", timeout=LONG) == b"yes"
        one.until_counted("OK")
        until(lambda: one.front.limiters.calls.in_use == 0)


@pytest.mark.parametrize(
    ("reply", "code"),
    [(InvalidRequest("query", "must be shorter"), "INVALID_ARGUMENT"), (SwiftrecError("ours"), "INTERNAL")],
)
def test_error_of_a_call_ends_it_and_no_other(reply: SwiftrecError, code: str) -> None:
    def answer(ticket: Ticket) -> None:
        ticket.done(ticket.message if ticket.message else reply)

    with serving(answer) as one:
        with pytest.raises(grpc.RpcError) as caught:
            one.ask(b"", timeout=LONG)
        assert code_of(caught.value).name == code
        assert one.ask(b"next", timeout=LONG) == b"next"
        one.until_counted("OK")
        assert one.counts() == {"OK": 1, code: 1}


def test_bug_while_a_call_is_taken_ends_that_call_alone(caplog: pytest.LogCaptureFixture) -> None:
    def answer(ticket: Ticket) -> None:
        if ticket.message == b"bug":
            raise ZeroDivisionError
        ticket.done(ticket.message)

    with serving(answer) as one:
        with pytest.raises(grpc.RpcError) as caught:
            one.ask(b"bug", timeout=LONG)
        assert code_of(caught.value) is grpc.StatusCode.INTERNAL
        assert "ZeroDivisionError" not in str(caught.value)
        assert one.ask(b"next", timeout=LONG) == b"next"
        one.until_counted("INTERNAL")


def test_call_that_cannot_be_begun_ends_alone_and_the_polling_thread_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(echo) as one:
        with monkeypatch.context() as patch:
            patch.setattr(one.front.arrivals, "admit", lambda _refuse: 1 / 0)
            with pytest.raises(grpc.RpcError) as caught:
                one.ask(b"one", timeout=LONG)
        assert code_of(caught.value) in {grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL}
        assert one.ask(b"two", timeout=LONG) == b"two"


def test_client_that_goes_is_told_to_the_worker_and_gives_its_place_back() -> None:
    with serving(calls=1) as one:
        call = one.ask.future(b"", timeout=LONG)
        ticket = one.link.next()
        call.cancel()  # type: ignore[no-untyped-call]
        assert one.link.cancelled.get(timeout=LONG) is ticket
        ticket.done(b"too late")
        one.until_counted("CANCELLED")
        assert one.counts() == {"CANCELLED": 1}
        until(lambda: one.front.limiters.calls.in_use == 0)


def test_clients_that_go_as_their_reply_comes_are_counted_once_as_they_saw_it() -> None:
    with serving() as one:
        calls = [one.ask.future(b"x", timeout=LONG) for _ in range(_MANY)]
        tickets = [one.link.next() for _ in calls]
        for call, ticket in zip(calls, tickets, strict=True):
            gone = threading.Thread(target=call.cancel)
            gone.start()
            ticket.done(b"y")
            gone.join()
        saw_ok = sum(call.code() is grpc.StatusCode.OK for call in calls)
        until(lambda: sum(one.counts().values()) == _MANY, one.counts)
        assert set(one.counts()) <= {"OK", "CANCELLED"}
        assert one.counts().get("OK", 0) >= saw_ok
        until(lambda: one.front.limiters.calls.in_use == 0)


def test_response_to_a_client_that_has_gone_is_not_counted_as_one() -> None:
    def answer(ticket: Ticket) -> None:  # in gRPC's polling thread, so that the server cannot hear of the cancel before
        peer.cancel(1)
        peer.ping()
        ticket.done(b"y" * 100_000)

    with serving(answer) as one, Peer(one.port) as peer:
        peer.call(1, PATH)
        peer.send(1, b"x")
        one.until_counted("CANCELLED")
        assert one.counts() == {"CANCELLED": 1}
        assert one.link.cancelled.empty()  # the worker's reply was given to gRPC


def test_call_whose_deadline_passes_at_the_worker_is_told_so_by_the_server() -> None:
    with serving(timeout_s=0.1) as one:
        with pytest.raises(grpc.RpcError) as caught:
            one.ask(b"", timeout=LONG, metadata=(("x-request-id", "late"),))
        assert code_of(caught.value) is grpc.StatusCode.DEADLINE_EXCEEDED
        assert isinstance(caught.value, grpc.Call)
        assert ("x-request-id", "late") in [tuple(entry) for entry in caught.value.trailing_metadata()]
        assert one.link.cancelled.get(timeout=LONG).message == b""
        one.until_counted("DEADLINE_EXCEEDED")


def test_error_may_be_a_response() -> None:
    def written(_ticket: Ticket, error: SwiftrecError) -> Reply:
        return type(error).__name__.encode()

    with serving(timeout_s=0.1, write_error=written) as one:
        assert one.ask(b"", timeout=LONG) == b"DeadlineExceeded"
    assert write_error is not written


def test_second_reply_to_a_call_is_dropped() -> None:
    def twice(ticket: Ticket) -> None:
        done = ticket.done
        done(b"first")
        done(b"second")

    with serving(twice) as one:
        assert one.ask(b"", timeout=LONG) == b"first"
        one.until_counted("OK")
        assert one.counts() == {"OK": 1}


def test_server_that_stops_at_once_tells_the_worker_of_every_call() -> None:
    with serving() as one:
        calls = [one.ask.future(b"x" * size, timeout=LONG) for size in (1, 10_000) for _ in range(20)]
        tickets = [one.link.next() for _ in calls]
    assert {id(one.link.cancelled.get(timeout=LONG)) for _ in calls} == {id(ticket) for ticket in tickets}
    assert all(call.code() is not grpc.StatusCode.OK for call in calls)
    assert one.front.limiters.calls.in_use == 0


def test_calls_that_have_ended_make_room_for_others() -> None:
    with serving(echo, calls=1) as one:
        for _ in range(50):
            assert one.ask(b"one", timeout=LONG) == b"one"
            until(lambda: one.front.limiters.calls.in_use == 0)


def test_call_beyond_the_limit_is_refused_with_its_retry_and_counted() -> None:
    with serving(calls=1) as one:
        held = one.ask.future(b"", timeout=LONG)
        one.link.next()
        with pytest.raises(grpc.RpcError) as caught:
            one.ask(b"", timeout=LONG)
        assert code_of(caught.value) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert isinstance(caught.value, grpc.Call)
        assert "grpc-retry-pushback-ms" in dict(caught.value.trailing_metadata())
        one.until_counted("RESOURCE_EXHAUSTED")
        assert not held.done()
