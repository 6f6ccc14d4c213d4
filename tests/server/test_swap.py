"""Bundles change, and clocks jump, while requests run."""

from __future__ import annotations

import gc
import itertools
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from swiftrec.server.app import App
from swiftrec.server.errors import BundleError, NotFound
from swiftrec.server.models.bundle import Bundle
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from swiftrec.server.pb.swiftrec.v1.recommender_pb2_grpc import RecommenderServiceStub
from tests.files import put
from tests.server.support import bundles
from tests.server.support.apps import SWAPPED, Clients, add_version, connect, running, serving
from tests.server.support.held import hold_steps
from tests.server.support.secure import ENCODE, UNAUTHENTICATED, bearer, code
from tests.until import LONG, until

_SWAPS = 50


def session_threads() -> int:
    return sum(thread.name.startswith("model") for thread in threading.enumerate())


def test_bundle_swaps_under_load_fail_no_request_and_mix_no_versions(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_version(bundle, tmp_path, 1)
    monkeypatch.setattr("swiftrec.server.app.probe", lambda *_: None)  # its own process is tested below
    with serving([tmp_path / SWAPPED]) as app:
        threads = session_threads()
        engines = [weakref.ref(engine) for engine in app.registry.ready()]
        with Clients(app.port, 2) as clients:
            for version in range(2, _SWAPS + 2):
                add_version(bundle, tmp_path, version)
                app.registry.load(SWAPPED)
                engines += [weakref.ref(engine) for engine in app.registry.ready()]
        assert clients.wrong == []
        assert len(clients.versions) > _SWAPS / 2
        assert clients.answers > _SWAPS
        assert [entry.version for entry in app.registry.index() if entry.is_ready] == [_SWAPS + 1]
        gc.collect()
        assert sum(ref() is not None for ref in engines) == 1  # the old ones are gone
        until(lambda: session_threads() == threads)


def test_bundle_is_tried_in_a_separate_process_before_a_swap(bundle: Bundle, tmp_path: Path) -> None:
    add_version(bundle, tmp_path, 1, light=False)
    with serving([tmp_path / SWAPPED], is_stub=False) as app, Clients(app.port, 2) as clients:
        add_version(bundle, tmp_path, 2, light=False)
        app.registry.load(SWAPPED)
        bad = add_version(bundle, tmp_path, 3, light=False)
        bundles.replace(bad / "ranker.onnx", bundles.stand_in("no model"))
        bundles.seal(bad, 3)
        with pytest.raises(BundleError, match=r"ranker\.onnx: ONNX Runtime cannot load it"):
            app.registry.load(SWAPPED)
        index = {entry.version: entry for entry in app.registry.index()}
        assert [index[n].is_ready for n in (1, 2, 3)] == [False, True, False]
        assert "ranker.onnx" in index[3].reason
    assert clients.wrong == []
    assert clients.versions == {1, 2}


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

        def requested(name: str = "", version: int = 0) -> tuple[str, int]:
            reply = client.Recommend(pb.RecommendRequest(query="x", bundle=name, version=version), timeout=30)
            return reply.bundle, reply.version

        assert (requested(), requested("other"), requested(version=1)) == ((SWAPPED, 1), ("other", 5), (SWAPPED, 1))
        with pytest.raises(grpc.RpcError):
            requested(version=2)
        app.registry.load(SWAPPED, 2)
        assert (requested(), requested(version=2)) == (
            (SWAPPED, 1),
            (SWAPPED, 2),
        )  # pinned stays what is meant by default
        app.registry.load("third")
        assert requested("third") == ("third", 7)
        app.registry.unload("third")
        with pytest.raises(NotFound, match="no bundle third"):
            app.registry.lease("third")
        with pytest.raises(NotFound, match="no bundle 'none' can be loaded"):
            app.registry.load("none")
        with pytest.raises(NotFound):
            app.registry.load("../other")
        batch = [pb.RecommendRequest(query="x", bundle=name) for name in ("other", "", "none", "other")]
        results = client.BatchRecommend(pb.BatchRecommendRequest(requests=batch), timeout=30).results
        assert [r.response.bundle or "error" for r in results] == ["other", SWAPPED, "error", "other"]


_DAY_S = 86_400.0


_REQUEST = pb.RecommendRequest(query="film")


_ROTATIONS = 40


class WallClock:
    """The system's clock, which may be set."""

    def __init__(self) -> None:
        self._now, self.shift_s = time.time, 0.0

    def __call__(self) -> float:
        return self._now() + self.shift_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> WallClock:
    """What the process sees as the wall clock."""
    wall = WallClock()
    monkeypatch.setattr(time, "time", wall)
    return wall


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """The worker runs no step until it is open."""
    return hold_steps(monkeypatch)


def test_calls_are_answered_while_the_wall_clock_jumps(tmp_path: Path, clock: WallClock) -> None:
    """The client, in this process, sets no deadline: it would read the same clock."""
    more = threading.Semaphore(0)

    def messages() -> Iterator[pb.StreamRecommendRequest]:
        while True:
            assert more.acquire(timeout=LONG)
            yield pb.StreamRecommendRequest(request=_REQUEST)

    with running(tmp_path) as app, connect(app) as channel:
        stub, health = RecommenderServiceStub(channel), health_pb2_grpc.HealthStub(channel)
        stream = stub.StreamRecommend(messages())
        replies = iter(stream)
        for shift_s in (_DAY_S, -_DAY_S, 1e3 * _DAY_S, -1e3 * _DAY_S, 0.0):
            clock.shift_s = shift_s
            assert stub.Recommend(_REQUEST).items
            assert len(stub.BatchRecommend(pb.BatchRecommendRequest(requests=[_REQUEST] * 3)).results) == 3
            more.release()
            assert next(replies).result.response.items
            state = health.Check(health_pb2.HealthCheckRequest()).status
            assert state == health_pb2.HealthCheckResponse.SERVING
        stream.cancel()  # type: ignore[no-untyped-call]


def test_default_timeout_passes_when_the_wall_clock_is_set_back(
    tmp_path: Path, clock: WallClock, gate: threading.Event
) -> None:
    with running(tmp_path, default_timeout_ms=200) as app, connect(app) as channel:
        call = RecommenderServiceStub(channel).Recommend.future(_REQUEST)
        until(lambda: app.worker.has_work)
        clock.shift_s = -_DAY_S
        assert call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        gate.set()


def _counts(app: App) -> dict[str, int]:
    counts = {code.name: app.metrics.calls.count("Recommend", code.name) for code in grpc.StatusCode}
    return {name: number for name, number in counts.items() if number}


@pytest.mark.skipif("config.getoption('front') == 'aio'", reason="grpc.aio tells the time left by the wall clock")
def test_call_cancelled_after_a_clock_jump_is_counted_as_cancelled(
    tmp_path: Path, clock: WallClock, gate: threading.Event
) -> None:
    with running(tmp_path) as app, connect(app) as channel:
        call = RecommenderServiceStub(channel).Recommend.future(_REQUEST, timeout=LONG)
        until(lambda: app.worker.has_work)
        clock.shift_s = _DAY_S
        call.cancel()  # type: ignore[no-untyped-call]
        until(lambda: _counts(app) == {"CANCELLED": 1}, lambda: _counts(app))
        gate.set()


def test_each_rotated_token_is_valid_until_the_next(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    tokens = [f"0123456789abcdef-{n}" for n in range(_ROTATIONS)]
    put(file, tokens[0].encode())
    with running(tmp_path / "small", token_file=file) as app, connect(app) as channel:
        for old, new in itertools.pairwise(tokens):
            assert code(channel, ENCODE, *bearer(old)) is not UNAUTHENTICATED
            put(file, new.encode())
            assert code(channel, ENCODE, *bearer(old)) is UNAUTHENTICATED
            assert code(channel, ENCODE, *bearer(new)) is not UNAUTHENTICATED
            put(file, b"broken\n")  # the previous content stays in use
            assert code(channel, ENCODE, *bearer(new)) is not UNAUTHENTICATED
            put(file, new.encode())
