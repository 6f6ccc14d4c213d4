"""Engines in use: one that is retired stops when its last user has left."""

from __future__ import annotations

import threading
from typing import Generic, Protocol, TypeVar

from server.models.bundle import Bundle


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
        self._served.drop()


class Served(Generic[E]):
    """An engine and its users. No lock: list operations are atomic, and a user who comes too late sees it himself."""

    __slots__ = ("_is_leaving", "_users", "engine", "idle")

    def __init__(self, engine: E) -> None:
        self.engine, self.idle = engine, threading.Event()
        self._users: list[None] = []
        self._is_leaving = False

    def take(self) -> bool:
        """One user more; False if the engine is leaving."""
        self._users.append(None)
        if self._is_leaving:
            self.drop()
            return False
        return True

    def drop(self) -> None:
        """One user less."""
        self._users.pop()
        if self._is_leaving and not self._users:
            self.idle.set()

    def leave(self) -> None:
        """Nobody new comes; `idle` is set when the last user has gone."""
        self._is_leaving = True
        if not self._users:
            self.idle.set()
