"""What tests share: the quick bundle (real data, real weights) and a real server on a free port."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from swiftrec.server.app import App
from swiftrec.server.config import ServerSettings
from swiftrec.server.front import grpc_adapter
from swiftrec.server.models.bundle import Bundle, load_bundle
from swiftrec.server.pb.swiftrec.v1.recommender_pb2_grpc import RecommenderServiceStub

ROOT = Path(__file__).parent.parent

_ENVIRONMENT = dict(os.environ)
# Nothing has imported torch yet. In tiny trainings its threads only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--front aio` runs everything that starts a server in this process over grpc.aio."""
    parser.addoption("--front", choices=["default", "aio"], default="default", help="adapter of the gRPC server")


def pytest_configure(config: pytest.Config) -> None:
    """As with a grpcio that lacks the private names."""
    if config.getoption("--front") == "aio":
        grpc_adapter._private = None


@pytest.fixture(params=["grpc.server", "grpc.aio"])
def each_front(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a test that starts its servers itself with each adapter."""
    if request.param == "grpc.aio":
        monkeypatch.setattr(grpc_adapter, "_private", None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that need the quick bundle come last: `make test` exports it meanwhile."""
    waiting = {item.path for item in items if "bundle" in getattr(item, "fixturenames", ())}
    items.sort(key=lambda item: item.path in waiting)


@pytest.fixture(scope="session")
def bundle() -> Bundle:
    """The quick bundle, exported first where it is missing or stale."""
    subprocess.run(
        [sys.executable, "-m", "swiftrec.export", "--preset", "quick"], cwd=ROOT, check=True, env=_ENVIRONMENT
    )
    return load_bundle(ROOT / "artifacts" / "movielens-quick")


@pytest.fixture(scope="session")
def app(bundle: Bundle) -> Iterator[App]:
    """A server on a free port."""
    running = App(ServerSettings(bundle=[bundle.folder], port=0, metrics_port=0, _cli_parse_args=[]))
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def channel(app: App) -> Iterator[grpc.Channel]:
    """A channel to it."""
    with grpc.insecure_channel(f"127.0.0.1:{app.port}") as open_channel:
        yield open_channel


@pytest.fixture(scope="session")
def recommender(channel: grpc.Channel) -> RecommenderServiceStub:
    """A stub of the recommender."""
    return RecommenderServiceStub(channel)
