"""Loading and unloading bundles, and the health that follows."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import cast

import grpc
import pytest
from grpc_health.v1 import health_pb2

from swiftrec.server.errors import BundleError, Busy, NotFound, ShuttingDown
from swiftrec.server.models.bundle import Bundle
from swiftrec.server.models.registry import _STOP_TIMEOUT_S, Registry
from swiftrec.server.models.trials import MAX_TRIALS
from swiftrec.server.readiness import Readiness
from tests.server.support import bundles

_LONG = 30.0


class Engine:
    """Serves nothing."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle, self.is_stopped = bundle, False

    def stop(self, timeout_s: float | None = None) -> None:
        assert timeout_s is not None  # a model that never returns must not hold the change for ever
        self.is_stopped = True


class Hanging(Engine):
    """Its model never returns, so that stopping takes all the time it gets, on a clock that only this moves."""

    now = 100.0

    def stop(self, timeout_s: float | None = None) -> None:
        super().stop(timeout_s)
        Hanging.now += timeout_s or 0.0


class Gate:
    """A trial that lasts until the gate opens, in the folders that are closed."""

    def __init__(self, *closed: Path) -> None:
        self.entered, self.gate = threading.Semaphore(0), threading.Event()
        self.closed, self.tried = set(closed), list[Path]()

    def __call__(self, folder: Path) -> None:
        self.tried.append(folder)
        if folder in self.closed:
            self.entered.release()
            assert self.gate.wait(_LONG)

    @contextmanager
    def holding(self, *loads: Callable[[], None]) -> Iterator[None]:
        """While these loads wait for their trials."""
        threads = [threading.Thread(target=load) for load in loads]
        for thread in threads:
            thread.start()
        try:
            assert all(self.entered.acquire(timeout=_LONG) for _ in threads)
            yield
        finally:
            self.gate.set()
            for thread in threads:
                thread.join()


def test_trial_does_not_delay_other_changes(bundle: Bundle, tmp_path: Path) -> None:
    for name, version in (("other", 1), ("other", 2), ("third", 1)):
        bundles.seal(bundles.copy(bundle, tmp_path / name / str(version), light=True), version, name)
    trial = Gate(tmp_path / "other" / "2")
    registry: Registry[Engine] = Registry(Engine, trial, repository=tmp_path)
    registry.add(bundle.folder.parent)
    name = bundle.manifest.name
    with trial.holding(lambda: registry.load("other", 2)):
        registry.load(name, wait_s=0.01)
        registry.load("third", wait_s=0.01)
        registry.load("other", 1, wait_s=0.01)
        assert {engine.bundle.manifest.name for engine in registry.ready()} == {name, "other", "third"}
        registry.unload("third", wait_s=0.01)
        registry.unload("other", wait_s=0.01)
        with registry.lease(name) as engine:  # who only asks does not wait
            assert engine.bundle.manifest.name == name
    with registry.lease("other") as engine:
        assert engine.bundle.manifest.version == 2


def test_load_waits_for_a_trial_of_the_same_folder_up_to_its_timeout(bundle: Bundle) -> None:
    trial = Gate(bundle.folder)
    registry: Registry[Engine] = Registry(Engine, trial)
    registry.add(bundle.folder.parent)
    name = bundle.manifest.name
    with trial.holding(lambda: registry.load(name)):
        for version in (0, bundle.manifest.version):
            with pytest.raises(Busy, match=f"{bundle.folder} is being tried already: try again"):
                registry.load(name, version, wait_s=0.01)
    registry.load(name, wait_s=0.01)
    assert {entry.reason for entry in registry.index()} == {""}


def test_number_of_concurrent_trials_is_limited(bundle: Bundle, tmp_path: Path) -> None:
    folders = [tmp_path / f"b{n}" / "1" for n in range(MAX_TRIALS + 1)]
    for folder in folders:
        bundles.seal(bundles.copy(bundle, folder, light=True), 1, folder.parent.name)
    trial = Gate(*folders)
    registry: Registry[Engine] = Registry(Engine, trial, repository=tmp_path)
    loads = [partial(registry.load, folder.parent.name) for folder in folders]
    with trial.holding(*loads[1:]), pytest.raises(Busy, match=f"{MAX_TRIALS} bundles are being tried already"):
        loads[0](wait_s=0.01)
    loads[0](wait_s=0.01)
    assert len(registry.ready()) == len(folders)


def test_version_that_appears_during_a_trial_is_tried_and_loaded(bundle: Bundle, tmp_path: Path) -> None:
    home = tmp_path / "other"
    bundles.seal(bundles.copy(bundle, home / "1", light=True), 1, "other")
    trial = Gate(home / "1")
    registry: Registry[Engine] = Registry(Engine, trial, repository=tmp_path)
    with trial.holding(lambda: registry.load("other")):
        bundles.seal(bundles.copy(bundle, home / "2", light=True), 2, "other")
        registry.load("other")
    assert [engine.bundle.manifest.version for engine in registry.ready()] == [2]
    assert trial.tried == [home / "1", home / "2", home / "2"]


def test_load_that_finishes_after_close_is_discarded(bundle: Bundle) -> None:
    opened: list[Engine] = []

    def open_late(bundle: Bundle) -> Engine:
        opened.append(Engine(bundle))
        registry.close(0.0)
        return opened[-1]

    changes: list[str] = []
    registry: Registry[Engine] = Registry(open_late, changed=lambda: changes.append("changed"))
    with pytest.raises(ShuttingDown, match="the server is stopping: load the bundle on another server"):
        registry.add(bundle.folder.parent)
    assert (registry.ready(), changes, opened[0].is_stopped) == ([], [], True)


def test_index_and_loads_work_when_the_repository_becomes_unreadable(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundles.seal(bundles.copy(bundle, tmp_path / "other" / "1", light=True), 1, "other")
    registry: Registry[Engine] = Registry(Engine, repository=tmp_path)
    registry.add(bundle.folder)
    assert {entry.name for entry in registry.index()} == {bundle.manifest.name, "other"}

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    for module in ("os.scandir", "os.listdir"):
        monkeypatch.setattr(module, refuse)
    assert {entry.name for entry in registry.index()} == {bundle.manifest.name}
    with pytest.raises(BundleError, match="other: has no version folder"):
        registry.load("other")


def test_unload_is_visible_before_it_waits_for_users_of_the_bundle(bundle: Bundle) -> None:
    has_changed = threading.Event()
    registry: Registry[Engine] = Registry(Engine, lambda _folder: None, changed=has_changed.set)
    registry.add(bundle.folder.parent)
    name = bundle.manifest.name
    registry.load(name)
    has_changed.clear()
    with registry.lease(name):
        leaving = threading.Thread(target=registry.unload, args=(name,))
        leaving.start()
        assert has_changed.wait(_LONG)
        assert not registry.ready()
        assert leaving.is_alive()
    leaving.join()


@pytest.mark.parametrize("change", ["unload", "swap"])
def test_users_of_a_retired_engine_do_not_delay_other_changes(bundle: Bundle, tmp_path: Path, change: str) -> None:
    for name, version in (("other", 1), ("other", 2), ("third", 1)):
        bundles.seal(bundles.copy(bundle, tmp_path / name / str(version), light=True), version, name)
    has_changed = threading.Event()
    registry: Registry[Engine] = Registry(Engine, changed=has_changed.set, repository=tmp_path)
    registry.add(bundle.folder.parent)
    registry.load("other", 1)
    has_changed.clear()
    with registry.lease("other") as engine:
        leaving = threading.Thread(target=registry.unload if change == "unload" else registry.load, args=("other",))
        leaving.start()
        assert has_changed.wait(_LONG)
        registry.load("third", wait_s=0.01)
        registry.load("other", 1, wait_s=0.01)  # an engine beside the one that leaves
        registry.unload("third", wait_s=0.01)
        assert leaving.is_alive()
        assert not engine.is_stopped
    leaving.join()
    assert engine.is_stopped
    with registry.lease("other", 1) as again:
        assert again is not engine
        assert not again.is_stopped


def test_load_reports_the_served_version_before_later_changes(bundle: Bundle, tmp_path: Path) -> None:
    for version in (1, 2):
        bundles.seal(bundles.copy(bundle, tmp_path / "other" / str(version), light=True), version, "other")
    registry: Registry[Engine] = Registry(Engine, repository=tmp_path)
    registry.add(bundle.folder.parent)
    registry.load("other", 1)
    first = threading.Event()
    served: list[str] = []

    def on_first() -> None:
        served.append("first")
        first.set()

    with registry.lease("other"):
        loading = threading.Thread(target=lambda: registry.load("other", served=on_first))
        loading.start()
        assert first.wait(_LONG)  # version 1 still has a user
        registry.load("other", served=lambda: served.append("second"))
        assert loading.is_alive()
    loading.join()
    with pytest.raises(NotFound):
        registry.load(bundle.manifest.name, 99, served=lambda: served.append("never"))
    assert served == ["first", "second"]


@pytest.mark.parametrize("is_pinned", [False, True])
def test_version_is_refused_when_its_folder_contains_another(bundle: Bundle, tmp_path: Path, is_pinned: bool) -> None:
    home, registry = tmp_path / "other", Registry(Engine)
    bundles.seal(bundles.copy(bundle, home / "1", light=True), 1, "other")
    registry.add(home / "1" if is_pinned else home)
    bundles.seal(bundles.copy(bundle, home / "3", light=True), 7, "other")
    with pytest.raises(BundleError, match=r"3: contains version 7: rename the folder"):
        registry.load("other", 3)
    with pytest.raises(NotFound):
        registry.lease("other", 7)
    with pytest.raises(BundleError, match="contains version 7"):
        Registry(Engine).add(home)


def test_bundle_is_refused_when_its_name_differs_from_the_folder(bundle: Bundle, tmp_path: Path) -> None:
    bundles.seal(bundles.copy(bundle, tmp_path / "renamed" / "1", light=True), 1, "other")
    registry: Registry[Engine] = Registry(Engine, repository=tmp_path)
    registry.add(bundle.folder.parent)
    with pytest.raises(BundleError, match=r"contains bundle 'other', not 'renamed'"):
        registry.load("renamed")
    for name in ("renamed", "other"):
        with pytest.raises(NotFound):
            registry.lease(name)


def test_close_takes_one_timeout_when_several_models_hang(bundle: Bundle, tmp_path: Path) -> None:
    copied = bundles.copy(bundle, tmp_path / "other" / "1", light=True)
    bundles.seal(copied, 1, "other")
    registry: Registry[Hanging] = Registry(Hanging, clock=lambda: Hanging.now)
    registry.add(bundle.folder.parent)
    registry.add(copied)
    engines, began = registry.ready(), Hanging.now
    registry.close(5.0)
    assert [engine.is_stopped for engine in engines] == [True, True]
    assert Hanging.now - began == pytest.approx(5.0)


def test_retired_versions_share_one_timeout(bundle: Bundle, tmp_path: Path) -> None:
    for version in (1, 2):
        bundles.seal(bundles.copy(bundle, tmp_path / "other" / str(version), light=True), version, "other")
    registry: Registry[Hanging] = Registry(Hanging, clock=lambda: Hanging.now)
    registry.add(tmp_path / "other")
    registry.load("other", 1)
    engines, began = registry.ready(), Hanging.now
    assert len(engines) == 2
    registry.unload("other")
    assert all(engine.is_stopped for engine in engines)
    assert Hanging.now - began == pytest.approx(_STOP_TIMEOUT_S)


_BLOCKED_S = 0.1  # for which the other thread may run, or wait for this one


_CONTEXT = cast(grpc.ServicerContext, None)  # of calls for a service that is known, it is not used


_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def states(readiness: Readiness) -> set[int]:
    requests = [health_pb2.HealthCheckRequest(service=name) for name in ("", "a.Service")]
    return {readiness.servicer.Check(request, _CONTEXT).status for request in requests}


@pytest.mark.parametrize("end", [Readiness.stop, Readiness.fail])
def test_health_stays_not_serving_when_a_load_ends_during_the_stop(end: Callable[[Readiness], None]) -> None:
    ending: list[threading.Thread] = []

    def has_bundle() -> bool:  # which is looked up while the end of the load is being published
        if not ending:
            ending.append(threading.Thread(target=end, args=(readiness,)))
            ending[0].start()
            ending[0].join(_BLOCKED_S)
        return True

    readiness = Readiness(["a.Service"], has_bundle)
    readiness.publish()
    ending[0].join()
    assert states(readiness) == {_NOT_SERVING}
    readiness.publish()
    assert states(readiness) == {_NOT_SERVING}
