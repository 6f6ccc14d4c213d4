"""The registry alone: changes of the bundles wait for each other, but not without end."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from server.errors import BundleError, Busy, NotFound
from server.models.bundle import Bundle
from server.models.registry import _PATIENCE_S, Registry
from tests import bundles

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


def test_change_waits_for_the_one_before_it_and_not_longer_than_it_may(bundle: Bundle) -> None:
    entered, gate = threading.Event(), threading.Event()

    def probe(_folder: Path) -> None:
        entered.set()
        assert gate.wait(_LONG)

    registry: Registry[Engine] = Registry(Engine, probe)
    registry.add(bundle.folder.parent)
    name = bundle.manifest.name
    first = threading.Thread(target=registry.load, args=(name,))
    first.start()
    try:
        assert entered.wait(_LONG)
        for change in (registry.load, registry.unload):
            with pytest.raises(Busy, match="try again"):
                change(name, wait_s=0.01)
        with registry.use(name) as engine:  # who only asks does not wait
            assert engine.bundle.manifest.name == name
    finally:
        gate.set()
        first.join()
    registry.unload(name, wait_s=0.01)
    assert engine.is_stopped
    with pytest.raises(NotFound):
        registry.use(name)


def test_unload_says_so_before_it_waits_for_those_who_still_use_the_bundle(bundle: Bundle) -> None:
    told = threading.Event()
    registry: Registry[Engine] = Registry(Engine, lambda _folder: None, changed=told.set)
    registry.add(bundle.folder.parent)
    name = bundle.manifest.name
    registry.load(name)
    told.clear()
    with registry.use(name):
        leaving = threading.Thread(target=registry.unload, args=(name,))
        leaving.start()
        assert told.wait(_LONG)
        assert not registry.ready()
        assert leaving.is_alive()
    leaving.join()


@pytest.mark.parametrize("is_pinned", [False, True])
def test_version_that_its_folder_does_not_hold_is_refused(bundle: Bundle, tmp_path: Path, is_pinned: bool) -> None:
    home, registry = tmp_path / "other", Registry(Engine)
    bundles.seal(bundles.copy(bundle, home / "1", light=True), 1, "other")
    registry.add(home / "1" if is_pinned else home)
    bundles.seal(bundles.copy(bundle, home / "3", light=True), 7, "other")
    with pytest.raises(BundleError, match=r"3: holds version 7: name the folder so"):
        registry.load("other", 3)
    with pytest.raises(NotFound):
        registry.use("other", 7)
    with pytest.raises(BundleError, match="holds version 7"):
        Registry(Engine).add(home)


def test_bundle_of_another_name_is_refused_by_its_folders_name(bundle: Bundle, tmp_path: Path) -> None:
    bundles.seal(bundles.copy(bundle, tmp_path / "wanted" / "1", light=True), 1, "other")
    registry: Registry[Engine] = Registry(Engine, repository=tmp_path)
    registry.add(bundle.folder.parent)
    with pytest.raises(BundleError, match=r"holds bundle 'other', not 'wanted'"):
        registry.load("wanted")
    for name in ("wanted", "other"):
        with pytest.raises(NotFound):
            registry.use(name)


def test_closing_takes_one_timeout_however_many_models_hang(bundle: Bundle, tmp_path: Path) -> None:
    copied = bundles.copy(bundle, tmp_path / "other" / "1", light=True)
    bundles.seal(copied, 1, "other")
    registry: Registry[Hanging] = Registry(Hanging, clock=lambda: Hanging.now)
    registry.add(bundle.folder.parent)
    registry.add(copied)
    engines, began = registry.ready(), Hanging.now
    registry.close(5.0)
    assert [engine.is_stopped for engine in engines] == [True, True]
    assert Hanging.now - began == pytest.approx(5.0)


def test_leaving_versions_share_one_patience(bundle: Bundle, tmp_path: Path) -> None:
    for version in (1, 2):
        bundles.seal(bundles.copy(bundle, tmp_path / "other" / str(version), light=True), version, "other")
    registry: Registry[Hanging] = Registry(Hanging, clock=lambda: Hanging.now)
    registry.add(tmp_path / "other")
    registry.load("other", 1)
    engines, began = registry.ready(), Hanging.now
    assert len(engines) == 2
    registry.unload("other")
    assert all(engine.is_stopped for engine in engines)
    assert Hanging.now - began == pytest.approx(_PATIENCE_S)
