"""Servers in this process, over models by hand or without any, and clients that call them continuously."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from swiftrec.benchmarks.null_server import NullSession
from swiftrec.server.app import App
from swiftrec.server.config import ServerSettings
from swiftrec.server.models.bundle import RANKER, Bundle
from swiftrec.server.models.session import Session
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from swiftrec.server.pb.swiftrec.v1.recommender_pb2_grpc import RecommenderServiceStub
from tests.server.support import bundles, small


@contextmanager
def running(folder: Path, **given: object) -> Iterator[App]:
    """A server of a small bundle."""

    def open_session(path: Path, _device: str, _threads: int) -> Session:
        return small.TinyRanker() if path.name == RANKER else small.TinyEncoder()

    plain = {"bundle": small.write_bundle(folder / "1"), "port": 0, "metrics_port": 0, "sessions": 1}
    app = App(ServerSettings.model_validate(plain | given), open_session=open_session)
    app.start()
    try:
        yield app
    finally:
        app.stop()


def connect(app: App) -> grpc.Channel:
    return grpc.insecure_channel(f"127.0.0.1:{app.port}", [("grpc.use_local_subchannel_pool", 1)])


SWAPPED = "swapped"


def add_version(bundle: Bundle, repository: Path, version: int, name: str = SWAPPED, *, light: bool = True) -> Path:
    """A version whose every title ends with "v1", "v2", ..."""
    folder = bundles.copy(bundle, repository / name / str(version), light=light)
    bundles.mark_titles(folder, f"v{version}")
    bundles.seal(folder, version, name)
    return folder


def stub(path: Path, _device: str, _threads: int) -> Session:
    return NullSession.of(path, 0.0)


@contextmanager
def serving(paths: list[Path], repository: Path | None = None, *, is_stub: bool = True) -> Iterator[App]:
    settings = ServerSettings(
        bundle=paths,
        repository=repository,
        port=0,
        metrics_port=0,
        cache_mb=0,
        default_timeout_ms=30_000,  # as the clients'
        _cli_parse_args=[],
    )
    app = App(settings, open_session=stub) if is_stub else App(settings)
    app.start()
    try:
        yield app
    finally:
        app.stop()


class Clients:
    """Threads that call continuously and collect wrong responses."""

    def __init__(self, port: int, number: int) -> None:
        self.wrong: list[str] = []
        self.versions: set[int] = set()
        self.answers = 0
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask, args=(port, n)) for n in range(number)]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, port: int, seed: int) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            client, n = RecommenderServiceStub(channel), 0
            while not self._over.is_set():
                n += 1
                request = pb.RecommendRequest(query=f"text {seed} {n}", history=[pb.Event(item_id="50")])
                try:
                    self._check(client.Recommend(request, timeout=30))
                except grpc.RpcError as error:
                    self.wrong.append(str(error))

    def _check(self, reply: pb.RecommendResponse) -> None:
        marks = {item.title.rpartition(" ")[2] for item in reply.items}
        with self._lock:
            self.answers += 1
            self.versions.add(reply.version)
            if marks != {f"v{reply.version}"}:
                self.wrong.append(f"version {reply.version} with titles of {marks}")
