"""Whether the server accepts calls, for gRPC's health service and the HTTP probes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from grpc_health.v1 import health, health_pb2


class Readiness:
    """The health of one server.

    Args:
        services: full names of the services whose health is published, in addition to that of the server.
        has_bundle: whether a bundle is loaded.
    """

    def __init__(self, services: Iterable[str], has_bundle: Callable[[], bool]) -> None:
        self._names, self._has_bundle = ("", *services), has_bundle
        # By default it holds a lock while it waits for a thread that may need that lock: a watcher that leaves would
        # cause a deadlock.
        self.servicer = health.HealthServicer(experimental_non_blocking=False)
        self._fault, self._is_stopping = "", False
        self.on_fault: Callable[[], object] = lambda: None  # called when the process should be restarted
        self._publishing = threading.Lock()  # so that states are published in order
        self._drain_ended = threading.Event()
        self.has_started = False  # all bundles of the settings are loaded

    def stop(self) -> None:
        """Report that the server is stopping."""
        self._is_stopping = True
        self.publish()

    def drain(self, seconds: float) -> None:
        """Give load balancers time to notice that the server is stopping; ends early with `end_drain` or a fault."""
        self._drain_ended.wait(seconds)

    def end_drain(self) -> None:
        """End the drain, or skip it."""
        self._drain_ended.set()

    def fail(self, reason: str = "a thread has died") -> None:
        """Report a fault, after which the process should be restarted."""
        self._fault = f"{reason}: restart the server"
        self.publish()
        self.end_drain()  # a server with a fault serves no calls: waiting would only delay its restart
        self.on_fault()

    def fault(self) -> str:
        """Why the process should be restarted; empty if it need not be."""
        return self._fault

    def obstacle(self) -> str:
        """Why calls are not served; empty if they are."""
        if fault := self.fault():
            return fault
        if self._is_stopping:
            return "the server is stopping"
        if self._has_bundle():
            return ""
        return "no bundle is loaded" if self.has_started else "the server is starting: no bundle is loaded yet"

    def is_ready(self) -> bool:
        """Whether calls are served."""
        return not self.obstacle()

    def publish(self) -> None:
        """Publish the current state of all services."""
        states = health_pb2.HealthCheckResponse
        with self._publishing:
            state = states.SERVING if self.is_ready() else states.NOT_SERVING
            for name in self._names:
                self.servicer.set(name, state)
