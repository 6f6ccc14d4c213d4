"""Loads, swaps and unloads bundles while requests run.

An engine is opened and warmed beside the others before any request gets it, and stopped when its last user has left, so
that every answer comes wholly from one version.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from swiftrec.server.errors import BundleError, Busy, NotFound, ProviderError
from swiftrec.server.models.bundle import Bundle, check_version, folders_in, load_bundle, versions
from swiftrec.server.models.engines import E, EngineTable, Served
from swiftrec.server.models.trials import Trials

_log = logging.getLogger(__name__)
BUNDLE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
TURN_S = 30.0  # a change waits so long for the one before it
_PATIENCE_S = 600.0  # users and models that stay longer than this are left behind when their engines stop


@dataclass(frozen=True, slots=True)
class Source:
    """Where a bundle comes from: the folder of its versions, and the one that it is pinned to, if any."""

    folder: Path
    pinned: Bundle | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One version of a bundle; `reason` says why it does not serve."""

    name: str
    version: int
    is_ready: bool
    reason: str = ""


class Registry(EngineTable[E]):
    """The engines that serve, and where their bundles come from.

    Args:
        open_engine: opens and warms the engine of a verified bundle.
        probe: tries a bundle in a process of its own before it is opened here; raises BundleError.
        changed: told after each change of what serves.
        repository: folder of bundles that `load` may name beside those that were added.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        open_engine: Callable[[Bundle], E],
        probe: Callable[[Path], None] = lambda _folder: None,
        changed: Callable[[], None] = lambda: None,
        repository: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._open, self._changed, self._repository = open_engine, changed, repository
        self._trials = Trials(probe)
        self._clock = clock
        self._changes = threading.Lock()  # one change of what serves at a time; a trial is none
        self._sources: dict[str, Source] = {}  # replaced as a whole, so that readers need no lock
        self._failures: dict[tuple[str, int], str] = {}

    def add(self, path: Path) -> None:
        """Serve the bundle at `path`: a version's folder stays at that version, a folder of versions at the highest.

        Raises:
            BundleError, ProviderError: it cannot be served.
        """
        bundle = load_bundle(path)
        if not (is_pinned := bundle.folder == path):
            check_version(bundle)
        with self._turn(TURN_S):
            name = bundle.manifest.name
            if name in self._sources:
                raise BundleError(
                    f"{path}: a bundle named {name!r} is served already, from {self._sources[name].folder}"
                )
            self._serve(bundle)
            source = Source(path.parent, bundle) if is_pinned else Source(path)
            self._sources = self._sources | {name: source}
            if is_pinned:
                self._pinned = self._pinned | {name: bundle.manifest.version}
            self._default = self._default or name
            self._changed()

    def load(
        self, name: str, version: int = 0, wait_s: float = TURN_S, served: Callable[[], None] = lambda: None
    ) -> None:
        """Load `version` beside what serves; without a version the pinned or highest one, which replaces the others.

        What fails leaves everything as it was. Returns once the users of engines that were replaced have left.

        Args:
            name: of the bundle.
            version: 0 for the pinned or highest one.
            wait_s: longest wait for another change, before the trial of the bundle and after it.
            served: called when the version serves, before any later change.

        Raises:
            NotFound: no bundle of that name was given to this server.
            BundleError: it cannot be served.
            Busy: another change has not ended within `wait_s`.
            ShuttingDown: the server stopped meanwhile.
        """
        with self._turn(wait_s):
            folder = self._existing_folder(name, version)
        leaving: list[Served[E]] | None = None
        while leaving is None:
            with self._failures_noted(name, version, folder):
                self._trials.run(folder, wait_s)
            with self._turn(wait_s):
                newest = self._existing_folder(name, version)
                if newest == folder:
                    leaving = self._load_tried(name, version, folder)
                    served()
            folder = newest  # of a version that appeared during the trial
        self._stop(leaving)

    def unload(self, name: str, wait_s: float = TURN_S) -> None:
        """Stop serving a bundle, and return once its users have left.

        Raises:
            NotFound: no such bundle serves.
            Busy: another change has not ended within `wait_s`.
        """
        with self._turn(wait_s):
            self._find(name, 0)
            leaving = self._retire(name, keep=None)
            self._changed()
        self._stop(leaving)

    def index(self) -> list[Entry]:
        """Every version that serves, was refused, or lies on disk."""
        ready = {(name, version) for name, engines in self._served.items() for version in engines}
        known = {(name, version) for name, folder in self._folders().items() for version in versions(folder)}
        known |= {(name, s.pinned.manifest.version) for name, s in self._sources.items() if s.pinned}
        return [
            Entry(name, version, (name, version) in ready, self._failures.get((name, version), ""))
            for name, version in sorted(known | ready | set(self._failures))
        ]

    def names(self) -> set[str]:
        """The bundles that serve or can be loaded."""
        return set(self._folders())

    def close(self, timeout_s: float) -> None:
        """Stop every engine, without waiting longer than `timeout_s` for all models that run; nothing is loaded later.

        It does not wait for a load that is under way: that ends with ShuttingDown.
        """
        end = self._clock() + timeout_s
        for engine in self._close():
            engine.stop(max(0.0, end - self._clock()))

    @contextmanager
    def _turn(self, wait_s: float) -> Iterator[None]:
        if not self._changes.acquire(timeout=max(0.0, wait_s)):
            raise Busy("another bundle is being loaded or unloaded: try again when it is through")
        try:
            yield
        finally:
            self._changes.release()

    @contextmanager
    def _failures_noted(self, name: str, version: int, folder: Path) -> Iterator[None]:
        """Keep why a bundle could not be loaded, for the index."""
        try:
            yield
        except (BundleError, ProviderError) as error:
            self._failures[name, self._version(name, version, folder)] = str(error)
            _log.error("bundle not loaded", extra={"fields": {"bundle": name, "reason": str(error)}})
            raise

    def _load_tried(self, name: str, version: int, folder: Path) -> list[Served[E]]:
        """Load the bundle of a folder whose trial has succeeded; the engines that it replaces."""
        with self._failures_noted(name, version, folder):
            bundle = load_bundle(folder)
            if bundle.manifest.name != name:
                raise BundleError(f"{folder}: holds bundle {bundle.manifest.name!r}, not {name!r}")
            self._check_version(bundle, version)
            self._serve(bundle)
        self._failures.pop((name, bundle.manifest.version), None)
        leaving = [] if version else self._retire(name, keep=bundle.manifest.version)
        self._changed()
        return leaving

    def _folders(self) -> dict[str, Path]:
        """The folder of each bundle's versions: those in the repository, and those that were added."""
        found = folders_in(self._repository) if self._repository else []
        folders = {path.name: path for path in found if BUNDLE_NAME.fullmatch(path.name)}
        return folders | {name: source.folder for name, source in self._sources.items()}

    def _version(self, name: str, version: int, folder: Path) -> int:
        """The version that was asked for, which `folder` should hold."""
        pinned = self._sources[name].pinned
        return version or (pinned.manifest.version if pinned else int(folder.name))

    def _check_version(self, bundle: Bundle, version: int) -> None:
        """The folder of the pinned version may have any name; every other is named by its version."""
        pinned = self._sources[bundle.manifest.name].pinned
        if pinned is None or bundle.folder != pinned.folder:
            check_version(bundle)
        elif version and bundle.manifest.version != version:
            raise BundleError(f"{bundle.folder}: holds version {bundle.manifest.version} now, not {version}")

    def _folder(self, name: str, version: int) -> Path:
        source = self._sources.get(name) or self._discover(name)
        if source.pinned and version in {0, source.pinned.manifest.version}:
            return source.pinned.folder
        if version:
            return source.folder / str(version)
        on_disk = versions(source.folder)
        if not on_disk:
            raise BundleError(f"{source.folder}: no version folder there: run swiftrec export")
        return source.folder / str(max(on_disk))

    def _existing_folder(self, name: str, version: int) -> Path:
        folder = self._folder(name, version)
        if not folder.is_dir():
            raise NotFound(f"bundle {name!r} has no version {version} on disk")
        return folder

    def _discover(self, name: str) -> Source:
        folder = self._repository / name if self._repository and BUNDLE_NAME.fullmatch(name) else None
        if folder is None or not folder.is_dir():
            known = ", ".join(sorted({entry.name for entry in self.index()}))
            raise NotFound(f"no bundle {name!r} can be loaded; this server knows: {known or 'none'}")
        source = Source(folder)
        self._sources = self._sources | {name: source}
        return source

    def _serve(self, bundle: Bundle) -> None:
        """Open the engine of a bundle, if that version does not serve already."""
        manifest = bundle.manifest
        if manifest.version not in self._served.get(manifest.name, {}):
            self._put(self._open(bundle))
            _log.info("bundle loaded", extra={"fields": {"bundle": manifest.name, "version": manifest.version}})

    def _stop(self, leaving: Iterable[Served[E]]) -> None:
        """Stop engines once their users have left. Other changes need not wait for this."""
        end = self._clock() + _PATIENCE_S
        for served in leaving:
            served.idle.wait(max(0.0, end - self._clock()))
            served.engine.stop(max(0.0, end - self._clock()))
            manifest = served.engine.bundle.manifest
            _log.info("bundle unloaded", extra={"fields": {"bundle": manifest.name, "version": manifest.version}})
