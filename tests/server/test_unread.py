"""Answers that a client does not read hold their places, and only for a time; their bytes are bounded."""

from __future__ import annotations

import grpc
import pytest

from swiftrec.server.front import grpc_adapter
from swiftrec.server.ticket import Ticket
from tests.server.fronts import PATH, STREAM, Running, serving
from tests.server.http2 import Peer
from tests.until import LONG, until

_ANSWER = b"x" * 100_000
_WINDOW = 1_000  # bytes that the client takes


def long_answer(ticket: Ticket) -> None:
    """More than the client takes, or nothing for a client that takes everything."""
    ticket.done(_ANSWER if ticket.message == b"long" else b"")


def leave_unread(one: Running, peer: Peer, calls: int) -> None:
    """Make calls whose long responses the client does not read."""
    for n in range(calls):
        peer.call(2 * n + 1, PATH)
        peer.send(2 * n + 1, b"long")
    until(lambda: one.front.unsent.bytes == calls * len(_ANSWER))


def refusal(one: Running) -> str:
    """Why another call is refused."""
    with pytest.raises(grpc.RpcError) as caught:
        one.ask(b"", timeout=LONG)
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    return caught.value.details() or ""


@pytest.mark.skipif("config.getoption('front') == 'aio'", reason="grpc.aio cannot cancel a call")
def test_answer_that_is_not_read_holds_its_place_until_its_time_is_up() -> None:
    with serving(long_answer, calls=3, send_timeout_s=1.0) as one, Peer(one.port, _WINDOW) as peer:
        leave_unread(one, peer, 3)
        refusal(one)
        one.until_counted("CANCELLED", 3)
        until(lambda: one.front.unsent.bytes == 0)
        assert one.ask(b"", timeout=LONG) == b""
        one.until_counted("OK")
        assert one.counts() == {"CANCELLED": 3, "OK": 1, "RESOURCE_EXHAUSTED": 1}


def test_answers_over_grpc_aio_that_are_not_read_hold_their_places_until_their_connection_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(grpc_adapter, "_private", None)
    with serving(long_answer, calls=3, send_timeout_s=0.05) as one:
        with Peer(one.port, _WINDOW) as peer:
            leave_unread(one, peer, 2)
            peer.call(5, STREAM)
            peer.send(5, b"long", ends=False)
            until(lambda: one.front.unsent.bytes == 3 * len(_ANSWER))
            assert one.ask(b"", timeout=LONG) == b""
            until(lambda: (one.front.limiters.calls.in_use, one.front.limiters.streams.in_use) == (2, 1))
        one.until_counted("CANCELLED", 2)
        one.until_counted("CANCELLED", method="Stream")
        until(lambda: one.front.unsent.bytes == 0)
        until(lambda: (one.front.limiters.calls.in_use, one.front.limiters.streams.in_use) == (0, 0))


@pytest.mark.usefixtures("each_front")
@pytest.mark.parametrize("method", [PATH, STREAM])
def test_deadline_of_the_client_ends_an_answer_that_it_does_not_read(method: str) -> None:
    with serving(long_answer) as one, Peer(one.port, _WINDOW) as peer:
        peer.call(1, method, "500m")
        peer.send(1, b"long", ends=False)
        until(lambda: one.front.unsent.bytes == len(_ANSWER))
        one.until_counted("DEADLINE_EXCEEDED", method=method.rpartition("/")[2])
        until(lambda: one.front.unsent.bytes == 0)
        until(lambda: one.front.limiters.calls.in_use + one.front.limiters.streams.in_use == 0)


@pytest.mark.usefixtures("each_front")
def test_calls_are_refused_while_too_many_bytes_are_not_read_and_answered_when_the_client_goes() -> None:
    with serving(long_answer, unsent_bytes=len(_ANSWER)) as one:
        with Peer(one.port, _WINDOW) as peer:
            leave_unread(one, peer, 2)
            assert "have not been read by their clients" in refusal(one)
            until(lambda: one.front.limiters.calls.in_use == 2)  # that of the refused call was given back
        until(lambda: one.front.unsent.bytes == 0)
        assert one.ask(b"", timeout=LONG) == b""


@pytest.mark.usefixtures("each_front")
def test_replies_that_a_stream_is_ahead_of_its_client_are_bounded() -> None:
    with serving(long_answer, unsent_bytes=3 * len(_ANSWER)) as one:
        with Peer(one.port, _WINDOW) as peer:
            peer.call(1, STREAM)
            for n in range(4):
                peer.send(1, b"long", ends=False)
                until(lambda n=n: one.front.unsent.bytes == (n + 1) * len(_ANSWER))  # type: ignore[misc] # it is n now
            assert "have not been read by their clients" in refusal(one)
            stream = one.channel.stream_stream(STREAM, None, None)(iter([b""]), timeout=LONG)
            with pytest.raises(grpc.RpcError):
                next(iter(stream))
            assert stream.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        until(lambda: one.front.unsent.bytes == 0)


@pytest.mark.skipif("config.getoption('front') == 'aio'", reason="grpc.aio cannot cancel a call")
def test_stream_that_is_not_read_ends_when_its_time_is_up() -> None:
    with serving(long_answer, send_timeout_s=0.5) as one, Peer(one.port, _WINDOW) as peer:
        peer.call(1, STREAM)
        for _ in range(3):
            peer.send(1, b"long", ends=False)
        until(lambda: one.front.limiters.streams.in_use == 1)
        one.until_counted("CANCELLED", method="Stream")
        until(lambda: one.front.limiters.streams.in_use == 0)
        until(lambda: one.front.unsent.bytes == 0)
