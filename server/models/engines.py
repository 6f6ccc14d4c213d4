"""The engines that serve: which one a request means, and when one that was replaced may stop."""

from __future__ import annotations

import threading
from typing import Generic, Protocol, TypeVar

from swiftrec.server.errors import NotFound, NotServing, ShuttingDown
from swiftrec.server.models.bundle import Bundle


class Runs(Protocol):
    """An engine: started on opening, and stopped at the end."""

    @property
    def bundle(self) -> Bundle:
        """What it serves."""

    def stop(self, timeout_s: float | None = None, /) -> None:
        """Finish what waits and stop, without waiting longer than `timeout_s` for a thread."""


E = TypeVar("E", bound=Runs)


class Lease(Generic[E]):
    """An engine in use: `with registry.use(...) as engine`."""

    __slots__ = ("_served",)

    def __init__(self, served: Served[E]) -> None:
        self._served = served

    def __enter__(self) -> E:
        return self._served.engine

    def __exit__(self, *_: object) -> None:
        self._served.release()


class Served(Generic[E]):
    """An engine and its users. List operations are atomic, so it needs no lock: who comes too late sees it himself."""

    __slots__ = ("_is_leaving", "_users", "engine", "idle")

    def __init__(self, engine: E) -> None:
        self.engine, self.idle = engine, threading.Event()
        self._users: list[None] = []
        self._is_leaving = False

    def acquire(self) -> bool:
        """Add a user; False if the engine is leaving."""
        self._users.append(None)
        if self._is_leaving:
            self.release()
            return False
        return True

    def release(self) -> None:
        """Remove a user."""
        self._users.pop()
        if self._is_leaving and not self._users:
            self.idle.set()

    def retire(self) -> None:
        """Take no new users; `idle` is set when the last one has left."""
        self._is_leaving = True
        if not self._users:
            self.idle.set()


class EngineTable(Generic[E]):
    """The engines by bundle name and version. Dictionaries are replaced as a whole, so that readers need no lock."""

    def __init__(self) -> None:
        self._served: dict[str, dict[int, Served[E]]] = {}
        self._pinned: dict[str, int] = {}  # the versions that requests without a version get, not the highest
        self._default = ""
        self._writing, self._is_closed = threading.Lock(), False

    @property
    def default(self) -> str:
        """The bundle that a request means when it names none: the first that was added."""
        return self._default

    def use(self, name: str = "", version: int = 0) -> Lease[E]:
        """The engine of a bundle, which stays until the end of the block; by default the default and its newest.

        Raises:
            NotFound: no such bundle or version serves.
            NotServing: none has served yet: the server is starting.
        """
        if not self._default:
            raise NotServing("no bundle is loaded yet: the server is starting")
        while not (served := self._find(name or self._default, version)).acquire():
            pass  # it was replaced at this moment, and is in the table no more
        return Lease(served)

    def ready(self) -> list[E]:
        """Every engine that serves."""
        return [served.engine for engines in self._served.values() for served in engines.values()]

    def _find(self, name: str, version: int) -> Served[E]:
        engines, pinned = self._served.get(name, {}), self._pinned.get(name, 0)
        found = engines.get(version or (pinned if pinned in engines else max(engines, default=0)))
        if found is None:
            have = ", ".join(f"{n} {v}" for n in sorted(self._served) for v in sorted(self._served[n]))
            wanted = f"{name} version {version}" if version else name
            raise NotFound(f"no bundle {wanted} is loaded; loaded: {have or 'none'}")
        return found

    def _put(self, engine: E) -> None:
        """Let an engine serve.

        Raises:
            ShuttingDown: the table is closed; the engine is stopped.
        """
        manifest = engine.bundle.manifest
        with self._writing:
            if not self._is_closed:
                engines = self._served.get(manifest.name, {}) | {manifest.version: Served(engine)}
                self._served = self._served | {manifest.name: engines}
        if self._is_closed:
            engine.stop(0.0)
            raise ShuttingDown("the server is stopping: load the bundle on another server")

    def _retire(self, name: str, keep: int | None) -> list[Served[E]]:
        """Let no version of a bundle but `keep` serve any more; those that leave may still have users."""
        with self._writing:
            engines = self._served.get(name, {})
            leaving = [served for version, served in engines.items() if version != keep]
            staying = {version: served for version, served in engines.items() if version == keep}
            others = {other: table for other, table in self._served.items() if other != name}
            self._served = others | ({name: staying} if staying else {})
        for served in leaving:
            served.retire()
        return leaving

    def _close(self) -> list[E]:
        """Let nothing serve from now on; the engines that did."""
        with self._writing:
            self._is_closed = True
            engines, self._served = self.ready(), {}
        return engines
