"""Unary calls over a real socket: they hold no thread while they wait, and whatever happens to one is answered once."""

from __future__ import annotations

import threading

import grpc
import pytest

from swiftrec.server.errors import InvalidRequest, SwiftrecError
from swiftrec.server.ticket import Reply, Ticket
from tests.server.fronts import PATH, echo, serving, write_error
from tests.server.http2 import Peer
from tests.until import LONG, until

_MANY = 300
pytestmark = pytest.mark.usefixtures("each_front")


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
