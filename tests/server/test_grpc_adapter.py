"""What the adapter over grpc.server needs of grpcio, and its own failures."""

from __future__ import annotations

import asyncio
import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from types import SimpleNamespace

import grpc
import pytest

from swiftrec.server.front import grpc_adapter
from swiftrec.server.front.aio_server import AioServer, new_loop
from swiftrec.server.front.endpoint import open_server
from swiftrec.server.front.grpc_adapter import is_supported
from tests.server.support.fronts import echo, serving
from tests.until import LONG

pytestmark = pytest.mark.skipif(
    "config.getoption('front') == 'aio'", reason="grpc.aio serves: there is no adapter over grpc.server"
)


def test_response_that_cannot_be_sent_affects_only_its_call(monkeypatch: pytest.MonkeyPatch) -> None:
    status, failures = grpc_adapter._private._status, [ValueError("the first one fails")]

    def failing(*work: object) -> None:
        if failures:
            raise failures.pop()
        status(*work)

    with serving(echo, calls=1) as running:
        monkeypatch.setattr(grpc_adapter._private, "_status", failing)
        with pytest.raises(grpc.RpcError) as caught:
            running.ask(b"one", timeout=LONG)
        assert isinstance(caught.value, grpc.Call)
        assert caught.value.code() is grpc.StatusCode.CANCELLED  # said at once, not at the client's deadline
        running.until_counted("CANCELLED")
        assert running.ask(b"two", timeout=LONG) == b"two"  # its place was given back, and gRPC's polling thread lives
        running.until_counted("OK")


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("_FUNCTIONS", {"_what_a_later_grpcio_lacks": ()}),
        ("_FUNCTIONS", {"_abort": ("state", "another")}),
        ("_STATE", ("what_a_later_grpcio_lacks",)),
        ("_cygrpc", SimpleNamespace()),
        ("_private", None),
        ("_cygrpc", None),
    ],
)
def test_missing_private_parts_of_grpcio_are_detected(
    monkeypatch: pytest.MonkeyPatch, part: str, value: object
) -> None:
    monkeypatch.setattr(grpc_adapter, part, value)
    assert not is_supported()


def test_installed_grpcio_has_the_private_parts() -> None:
    assert is_supported()


def test_grpc_aio_serves_with_a_log_line_when_grpcio_lacks_the_private_parts(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with ThreadPoolExecutor(1) as threads, caplog.at_level(logging.WARNING):
        assert not isinstance(open_server(threads, []), AioServer)
        assert caplog.messages == []
        monkeypatch.setattr(grpc_adapter, "_private", None)
        assert isinstance(open_server(threads, []), AioServer)
        assert "serving over grpc.aio" in caplog.text


def test_event_loop_is_that_of_uvloop_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(asyncio.new_event_loop()) as loop:
        monkeypatch.setitem(sys.modules, "uvloop", SimpleNamespace(new_event_loop=lambda: loop))
        assert new_loop() is loop
    monkeypatch.setitem(sys.modules, "uvloop", None)  # it cannot be imported
    with closing(new_loop()) as plain:
        assert isinstance(plain, asyncio.AbstractEventLoop)
        assert plain is not loop
