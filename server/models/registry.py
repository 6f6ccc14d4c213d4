"""Loads, swaps and unloads bundles while requests run.

An engine is opened and warmed up before any request uses it, and stopped after its last user has left, so that each
response comes from exactly one version.
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
CHANGE_TIMEOUT_S = 30.0  # longest wait for another load or unload
_STOP_TIMEOUT_S = 600.0  # longest wait for the users and models of an engine to finish


@dataclass(frozen=True, slots=True)
class Source:
    """The source of a bundle: the folder of its versions, and the pinned version, if any."""

    folder: Path
    pinned: Bundle | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One version of a bundle; `reason` says why it is not loaded."""

    name: str
    version: int
    is_ready: bool
    reason: str = ""


class Registry(EngineTable[E]):
    """The loaded engines and the sources of their bundles.

    Args:
        open_engine: opens and warms up the engine of a verified bundle.
        probe: tries a bundle in a separate process before it is opened here; raises BundleError.
        changed: called after each load and unload.
        repository: folder of further bundles that can be loaded by name.
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
        self._changes = threading.Lock()  # one load or unload at a time; trials are not included
        self._sources: dict[str, Source] = {}  # replaced as a whole, so that readers need no lock
        self._failures: dict[tuple[str, int], str] = {}

    def add(self, path: Path) -> None:
        """Load the bundle at `path`: the folder of a version pins that version, a folder of versions means the highest.

        Raises:
            BundleError, ProviderError: it cannot be loaded.
        """
        bundle = load_bundle(path)
        if not (is_pinned := bundle.folder == path):
            check_version(bundle)
        with self._change(CHANGE_TIMEOUT_S):
            name = bundle.manifest.name
            if name in self._sources:
                raise BundleError(
                    f"{path}: a bundle named {name!r} is already loaded, from {self._sources[name].folder}"
                )
            self._serve(bundle)
            source = Source(path.parent, bundle) if is_pinned else Source(path)
            self._sources = self._sources | {name: source}
            if is_pinned:
                self._pinned = self._pinned | {name: bundle.manifest.version}
            self._default = self._default or name
            self._changed()

    def load(
        self, name: str, version: int = 0, wait_s: float = CHANGE_TIMEOUT_S, served: Callable[[], None] = lambda: None
    ) -> None:
        """Load `version` in addition to the loaded ones; without a version the pinned or highest one, replacing them.

        On an error nothing changes. Returns after the users of replaced engines have left.

        Args:
            name: of the bundle.
            version: 0 for the pinned or highest one.
            wait_s: longest wait for another load or unload, before the trial of the bundle and after it.
            served: called when the version is loaded, before any later change.

        Raises:
            NotFound: this server has no bundle of that name.
            BundleError: it cannot be loaded.
            Busy: another load or unload did not end within `wait_s`.
            ShuttingDown: the server stopped meanwhile.
        """
        with self._change(wait_s):
            folder = self._existing_folder(name, version)
        leaving: list[Served[E]] | None = None
        while leaving is None:
            with self._failures_noted(name, version, folder):
                self._trials.run(folder, wait_s)
            with self._change(wait_s):
                newest = self._existing_folder(name, version)
                if newest == folder:
                    leaving = self._load_tried(name, version, folder)
                    served()
            folder = newest  # a version that appeared during the trial
        self._stop(leaving)

    def unload(self, name: str, wait_s: float = CHANGE_TIMEOUT_S) -> None:
        """Unload a bundle; returns after its users have left.

        Raises:
            NotFound: the bundle is not loaded.
            Busy: another load or unload did not end within `wait_s`.
        """
        with self._change(wait_s):
            self._find(name, 0)
            leaving = self._retire(name, keep=None)
            self._changed()
        self._stop(leaving)

    def index(self) -> list[Entry]:
        """All versions that are loaded, failed to load, or are on disk."""
        ready = {(name, version) for name, engines in self._served.items() for version in engines}
        known = {(name, version) for name, folder in self._folders().items() for version in versions(folder)}
        known |= {(name, s.pinned.manifest.version) for name, s in self._sources.items() if s.pinned}
        return [
            Entry(name, version, (name, version) in ready, self._failures.get((name, version), ""))
            for name, version in sorted(known | ready | set(self._failures))
        ]

    def names(self) -> set[str]:
        """The bundles that are or can be loaded."""
        return set(self._folders())

    def close(self, timeout_s: float) -> None:
        """Stop all engines, waiting at most `timeout_s` for running models; nothing can be loaded later.

        A load in progress is not waited for; it ends with ShuttingDown.
        """
        end = self._clock() + timeout_s
        for engine in self._close():
            engine.stop(max(0.0, end - self._clock()))

    @contextmanager
    def _change(self, wait_s: float) -> Iterator[None]:
        if not self._changes.acquire(timeout=max(0.0, wait_s)):
            raise Busy("another bundle is being loaded or unloaded: try again later")
        try:
            yield
        finally:
            self._changes.release()

    @contextmanager
    def _failures_noted(self, name: str, version: int, folder: Path) -> Iterator[None]:
        """Record why a bundle could not be loaded, for the index."""
        try:
            yield
        except (BundleError, ProviderError) as error:
            self._failures[name, self._version(name, version, folder)] = str(error)
            _log.error("bundle not loaded", extra={"fields": {"bundle": name, "reason": str(error)}})
            raise

    def _load_tried(self, name: str, version: int, folder: Path) -> list[Served[E]]:
        """Load the bundle of a folder after a successful trial; returns the engines that it replaces."""
        with self._failures_noted(name, version, folder):
            bundle = load_bundle(folder)
            if bundle.manifest.name != name:
                raise BundleError(f"{folder}: contains bundle {bundle.manifest.name!r}, not {name!r}")
            self._check_version(bundle, version)
            self._serve(bundle)
        self._failures.pop((name, bundle.manifest.version), None)
        leaving = [] if version else self._retire(name, keep=bundle.manifest.version)
        self._changed()
        return leaving

    def _folders(self) -> dict[str, Path]:
        """The folders of versions: of the bundles in the repository and of those that were added."""
        folders_found = folders_in(self._repository) if self._repository else []
        folders = {path.name: path for path in folders_found if BUNDLE_NAME.fullmatch(path.name)}
        return folders | {name: source.folder for name, source in self._sources.items()}

    def _version(self, name: str, version: int, folder: Path) -> int:
        """The requested version, which `folder` should contain."""
        pinned = self._sources[name].pinned
        return version or (pinned.manifest.version if pinned else int(folder.name))

    def _check_version(self, bundle: Bundle, version: int) -> None:
        """Check the version of a bundle. The folder of a pinned version may have any name."""
        pinned = self._sources[bundle.manifest.name].pinned
        if pinned is None or bundle.folder != pinned.folder:
            check_version(bundle)
        elif version and bundle.manifest.version != version:
            raise BundleError(f"{bundle.folder}: contains version {bundle.manifest.version} now, not {version}")

    def _folder(self, name: str, version: int) -> Path:
        source = self._sources.get(name) or self._discover(name)
        if source.pinned and version in {0, source.pinned.manifest.version}:
            return source.pinned.folder
        if version:
            return source.folder / str(version)
        on_disk = versions(source.folder)
        if not on_disk:
            raise BundleError(f"{source.folder}: has no version folder: run swiftrec export")
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
        """Open the engine of a bundle, if that version is not loaded already."""
        manifest = bundle.manifest
        if manifest.version not in self._served.get(manifest.name, {}):
            self._put(self._open(bundle))
            _log.info("bundle loaded", extra={"fields": {"bundle": manifest.name, "version": manifest.version}})

    def _stop(self, leaving: Iterable[Served[E]]) -> None:
        """Stop engines after their users have left. Other changes do not wait for this."""
        end = self._clock() + _STOP_TIMEOUT_S
        for served in leaving:
            served.idle.wait(max(0.0, end - self._clock()))
            served.engine.stop(max(0.0, end - self._clock()))
            manifest = served.engine.bundle.manifest
            _log.info("bundle unloaded", extra={"fields": {"bundle": manifest.name, "version": manifest.version}})
