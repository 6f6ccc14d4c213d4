"""Bundles change while requests run: no request fails, every answer comes wholly from one version, nothing is left."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from swiftrec.benchmarks.null_model_server import NullSession
from swiftrec.server.app import App
from swiftrec.server.config import ServerSettings
from swiftrec.server.errors import BundleError, NotFound
from swiftrec.server.models.bundle import Bundle
from swiftrec.server.models.session import Session
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from swiftrec.server.pb.swiftrec.v1.recommender_pb2_grpc import RecommenderServiceStub
from tests.server import bundles
from tests.until import until

_SWAPS = 100
_NAME = "swapped"


def add_version(bundle: Bundle, repository: Path, version: int, name: str = _NAME, *, light: bool = True) -> Path:
    """A version whose every title ends with "v1", "v2", ..."""
    folder = bundles.copy(bundle, repository / name / str(version), light=light)
    bundles.mark_titles(folder, f"v{version}")
    bundles.seal(folder, version, name)
    return folder


def session_threads() -> int:
    return sum(thread.name.startswith("model") for thread in threading.enumerate())


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


class Askers:
    """Threads that ask without a pause and keep what is wrong with the answers."""

    def __init__(self, port: int, number: int) -> None:
        self.wrong: list[str] = []
        self.versions: set[int] = set()
        self.answers = 0
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask, args=(port, n)) for n in range(number)]

    def __enter__(self) -> Askers:
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


def test_swaps_under_load_fail_no_request_and_mix_no_versions(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_version(bundle, tmp_path, 1)
    monkeypatch.setattr("swiftrec.server.app.probe", lambda *_: None)  # its own process is tested below
    with serving([tmp_path / _NAME]) as app:
        threads = session_threads()
        engines = [weakref.ref(engine) for engine in app.registry.ready()]
        with Askers(app.port, 2) as askers:
            for version in range(2, _SWAPS + 2):
                add_version(bundle, tmp_path, version)
                app.registry.load(_NAME)
                engines += [weakref.ref(engine) for engine in app.registry.ready()]
        assert askers.wrong == []
        assert len(askers.versions) > _SWAPS / 2
        assert askers.answers > _SWAPS
        assert [entry.version for entry in app.registry.index() if entry.is_ready] == [_SWAPS + 1]
        gc.collect()
        assert sum(ref() is not None for ref in engines) == 1  # the old ones are gone
        until(lambda: session_threads() == threads)


def test_swap_tries_the_bundle_in_a_process_of_its_own_first(bundle: Bundle, tmp_path: Path) -> None:
    add_version(bundle, tmp_path, 1, light=False)
    with serving([tmp_path / _NAME], is_stub=False) as app, Askers(app.port, 2) as askers:
        add_version(bundle, tmp_path, 2, light=False)
        app.registry.load(_NAME)
        bad = add_version(bundle, tmp_path, 3, light=False)
        bundles.replace(bad / "ranker.onnx", bundles.stand_in("no model"))
        bundles.seal(bad, 3)
        with pytest.raises(BundleError, match=r"ranker\.onnx: ONNX Runtime cannot load it"):
            app.registry.load(_NAME)
        index = {entry.version: entry for entry in app.registry.index()}
        assert [index[n].is_ready for n in (1, 2, 3)] == [False, True, False]
        assert "ranker.onnx" in index[3].reason
    assert askers.wrong == []
    assert askers.versions == {1, 2}


def test_versions_and_bundles_serve_side_by_side(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swiftrec.server.app.probe", lambda *_: None)
    pinned = add_version(bundle, tmp_path, 1)
    add_version(bundle, tmp_path, 2)
    add_version(bundle, tmp_path, 5, "other")
    add_version(bundle, tmp_path, 7, "third")
    with (
        serving([pinned, tmp_path / "other"], tmp_path) as app,
        grpc.insecure_channel(f"127.0.0.1:{app.port}") as channel,
    ):
        client = RecommenderServiceStub(channel)

        def asked(name: str = "", version: int = 0) -> tuple[str, int]:
            reply = client.Recommend(pb.RecommendRequest(query="x", bundle=name, version=version), timeout=30)
            return reply.bundle, reply.version

        assert (asked(), asked("other"), asked(version=1)) == ((_NAME, 1), ("other", 5), (_NAME, 1))
        with pytest.raises(grpc.RpcError):
            asked(version=2)
        app.registry.load(_NAME, 2)
        assert (asked(), asked(version=2)) == ((_NAME, 1), (_NAME, 2))  # pinned stays what is meant by default
        app.registry.load("third")
        assert asked("third") == ("third", 7)
        app.registry.unload("third")
        with pytest.raises(NotFound, match="no bundle third"):
            app.registry.use("third")
        with pytest.raises(NotFound, match="no bundle 'none' can be loaded"):
            app.registry.load("none")
        with pytest.raises(NotFound):
            app.registry.load("../other")
        batch = [pb.RecommendRequest(query="x", bundle=name) for name in ("other", "", "none", "other")]
        results = client.BatchRecommend(pb.BatchRecommendRequest(requests=batch), timeout=30).results
        assert [r.response.bundle or "error" for r in results] == ["other", _NAME, "error", "other"]
