"""The table of loaded engines: finds the engine of a request, and tracks when a replaced one may stop."""

from __future__ import annotations

import threading
from typing import Generic, Protocol, TypeVar

from swiftrec.server.errors import NotFound, NotServing, ShuttingDown
from swiftrec.server.models.bundle import Bundle


class EngineProtocol(Protocol):
    """An engine, which is started when it is opened."""

    @property
    def bundle(self) -> Bundle:
        """The bundle that it serves."""

    def stop(self, timeout_s: float | None = None, /) -> None:
        """Stop, waiting at most `timeout_s` for a thread."""


E = TypeVar("E", bound=EngineProtocol)


class Lease(Generic[E]):
    """An engine in use: `with registry.lease(...) as engine`."""

    __slots__ = ("_served",)

    def __init__(self, served: Served[E]) -> None:
        self._served = served

    def __enter__(self) -> E:
        return self._served.engine

    def __exit__(self, *_: object) -> None:
        self._served.release()


class Served(Generic[E]):
    """An engine and the count of its users. Needs no lock: list operations are atomic, and `acquire` checks twice."""

    __slots__ = ("_is_leaving", "_users", "engine", "idle")

    def __init__(self, engine: E) -> None:
        self.engine, self.idle = engine, threading.Event()
        self._users: list[None] = []
        self._is_leaving = False

    def acquire(self) -> bool:
        """Add a user; False if the engine is being retired."""
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
        """Accept no more users; `idle` is set after the last one has left."""
        self._is_leaving = True
        if not self._users:
            self.idle.set()


class EngineTable(Generic[E]):
    """The engines by bundle name and version. Dictionaries are replaced as a whole, so readers need no lock."""

    def __init__(self) -> None:
        self._served: dict[str, dict[int, Served[E]]] = {}
        self._pinned: dict[str, int] = {}  # versions for requests without a version, instead of the highest
        self._default = ""
        self._writing, self._is_closed = threading.Lock(), False

    @property
    def default(self) -> str:
        """The bundle for requests that name none: the first that was added."""
        return self._default

    def lease(self, name: str = "", version: int = 0) -> Lease[E]:
        """Lease the engine of a bundle; it is not stopped before the end of the block.

        Raises:
            NotFound: the bundle or version is not loaded.
            NotServing: no bundle has been loaded: the server is starting.
        """
        if not self._default:
            raise NotServing("no bundle is loaded yet: the server is starting")
        while not (served := self._find(name or self._default, version)).acquire():
            pass  # it was just replaced, and has been removed from the table
        return Lease(served)

    def ready(self) -> list[E]:
        """All loaded engines."""
        return [served.engine for engines in self._served.values() for served in engines.values()]

    def _find(self, name: str, version: int) -> Served[E]:
        engines, pinned = self._served.get(name, {}), self._pinned.get(name, 0)
        served = engines.get(version or (pinned if pinned in engines else max(engines, default=0)))
        if served is None:
            loaded = ", ".join(f"{n} {v}" for n in sorted(self._served) for v in sorted(self._served[n]))
            requested = f"{name} version {version}" if version else name
            raise NotFound(f"no bundle {requested} is loaded; loaded: {loaded or 'none'}")
        return served

    def _put(self, engine: E) -> None:
        """Add an engine.

        Raises:
            ShuttingDown: the table is closed; the engine was stopped.
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
        """Retire all versions of a bundle but `keep`; returns those retired, which may still have users."""
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
        """Close the table; returns its engines."""
        with self._writing:
            self._is_closed = True
            engines, self._served = self.ready(), {}
        return engines
