"""Calls of every shape are limited, their errors have a status, and each is counted as its client saw it end."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from swiftrec.server.errors import InvalidRequest, NotFound
from swiftrec.server.front.methods import Handler
from tests.server.fronts import PATH, STREAM, Running, echo, serving
from tests.server.http2 import Peer
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
        place = one.front.limiters.streams.acquire()
        with pytest.raises(grpc.RpcError) as full:
            list(ask(iter([b"good"]), timeout=LONG))
        assert isinstance(full.value, grpc.Call)
        assert full.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        one.front.limiters.streams.release(place)
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
