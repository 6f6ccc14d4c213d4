"""Whether the server takes calls, as gRPC's health service and the HTTP probes say it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from grpc_health.v1 import health, health_pb2


class Readiness:
    """The state of one server.

    Args:
        services: full names of the services whose health clients ask for, beside the server's own.
        has_bundle: whether a bundle is loaded.
    """

    def __init__(self, services: Iterable[str], has_bundle: Callable[[], bool]) -> None:
        self._names, self._has_bundle = ("", *services), has_bundle
        # By default it waits under a lock for the thread that may want the lock: watchers that leave freeze the server.
        self.servicer = health.HealthServicer(experimental_non_blocking=False)
        self._has_fault = self._is_stopping = False
        self.has_started = False  # every bundle that was asked for at the start is loaded

    def stop(self) -> None:
        """The server stops."""
        self._is_stopping = True
        self.publish()

    def fail(self) -> None:
        """A thread has died."""
        self._has_fault = True
        self.publish()

    def fault(self) -> str:
        """Why the process should be restarted; empty if it need not be."""
        return "a thread has died: restart the server" if self._has_fault else ""

    def obstacle(self) -> str:
        """Why no call is answered; empty if calls are."""
        if fault := self.fault():
            return fault
        if self._is_stopping:
            return "the server is stopping"
        if self._has_bundle():
            return ""
        return "no bundle is loaded" if self.has_started else "the server is starting: no bundle is loaded yet"

    def is_ready(self) -> bool:
        """Whether calls are answered."""
        return not self.obstacle()

    def publish(self) -> None:
        """Tell those who watch the health service."""
        states = health_pb2.HealthCheckResponse
        for name in self._names:
            self.servicer.set(name, states.SERVING if self.is_ready() else states.NOT_SERVING)
