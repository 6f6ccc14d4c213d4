"""`/healthz` and `/readyz` of a real server are true while it starts, serves, has no bundle, is broken and stops."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from pathlib import Path

import grpc
import pytest

from swiftrec.server.app import App
from swiftrec.server.config import ServerSettings
from swiftrec.server.models.bundle import Bundle
from swiftrec.server.models.session import Session, open_session
from tests.server.test_isolation import bench, code
from tests.until import LONG, until

_OK = (200, "ok\n")


def probe(app: App, path: str) -> tuple[int, str]:
    """Status and text of `/healthz` or `/readyz`."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{app.metrics_port}{path}", timeout=LONG) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_server_that_loads_its_bundle_is_alive_and_not_ready(bundle: Bundle) -> None:
    seen: list[tuple[int, str]] = []

    def opened(path: Path, device: str, threads: int) -> Session:
        seen.extend((probe(app, "/healthz"), probe(app, "/readyz")))
        return open_session(path, device, threads)

    app = App(ServerSettings(bundle=[bundle.folder], port=0, metrics_port=0, _cli_parse_args=[]), opened)
    app.start()
    try:
        assert seen[:2] == [_OK, (503, "the server is starting: no bundle is loaded yet\n")]
        assert probe(app, "/readyz") == _OK
    finally:
        app.stop()


def test_server_without_a_bundle_is_alive_and_not_ready(bundle: Bundle) -> None:
    with bench(bundle) as one:
        assert probe(one.app, "/healthz") == probe(one.app, "/readyz") == _OK
        one.app.registry.unload(bundle.manifest.name)
        assert probe(one.app, "/healthz") == _OK
        assert probe(one.app, "/readyz") == (503, "no bundle is loaded\n")


def test_server_that_stops_is_alive_and_not_ready(bundle: Bundle) -> None:
    with bench(bundle) as one:
        held = one.hold()
        stopping = threading.Thread(target=one.app.stop)
        stopping.start()
        until(lambda: probe(one.app, "/readyz") == (503, "the server is stopping\n"))
        assert probe(one.app, "/healthz") == _OK
        one.encoder.open()
        assert held.result(LONG).rows == 1
        stopping.join()


def test_server_whose_thread_died_is_not_alive(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    with bench(bundle) as one:
        monkeypatch.setattr(one.app.worker, "step", lambda: 1 / 0)
        assert code(one.ask("text")) is grpc.StatusCode.UNAVAILABLE
        reply = (503, "the worker's thread has died: restart the server\n")
        assert probe(one.app, "/healthz") == probe(one.app, "/readyz") == reply
