"""Whether the server takes calls, as gRPC's health service and the HTTP probes say it."""

from __future__ import annotations

import threading
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
        self._fault, self._is_stopping = "", False
        self.on_fault: Callable[[], object] = lambda: None  # called when the process should be restarted
        self._publishing = threading.Lock()  # so that no state is published after a newer one
        self._drain_ended = threading.Event()
        self.has_started = False  # every bundle that was asked for at the start is loaded

    def stop(self) -> None:
        """The server stops."""
        self._is_stopping = True
        self.publish()

    def drain(self, seconds: float) -> None:
        """Wait until load balancers know that the server stops: for this time, or until `end_drain` or a fault."""
        self._drain_ended.wait(seconds)

    def end_drain(self) -> None:
        """End the drain, or leave it out."""
        self._drain_ended.set()

    def fail(self, reason: str = "a thread has died") -> None:
        """The process should be restarted: a thread has died, or a model does not answer."""
        self._fault = f"{reason}: restart the server"
        self.publish()
        self.end_drain()  # a server with a fault answers no calls: waiting would only delay its restart
        self.on_fault()

    def fault(self) -> str:
        """Why the process should be restarted; empty if it need not be."""
        return self._fault

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
        """Make the present state that of the health service, for all services at once."""
        states = health_pb2.HealthCheckResponse
        with self._publishing:
            state = states.SERVING if self.is_ready() else states.NOT_SERVING
            for name in self._names:
                self.servicer.set(name, state)
