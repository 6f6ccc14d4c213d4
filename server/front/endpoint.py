"""Starts the gRPC server, and stops it without losing calls."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import grpc

from swiftrec.server.addresses import join_address, listen_problem
from swiftrec.server.errors import ConfigError, ShuttingDown
from swiftrec.server.front.aio_server import AioServer
from swiftrec.server.front.grpc_adapter import is_supported
from swiftrec.server.front.limits import Arrivals, OpenCalls

_QUIET_S = 0.05  # without new calls, after which gRPC's core holds none
_MAX_QUIET_WAIT_S = 0.5  # if clients keep sending calls
_END_TIMEOUT_S = 1.0  # after the grace, for clients to read their responses and for gRPC to end cancelled calls
_GRACE_ENDED = "the server is stopping and the grace period has ended: send the call to another server, or again later"
_log = logging.getLogger(__name__)
Server: TypeAlias = "grpc.Server | AioServer"


class Endpoint:
    """Serves one port.

    Args:
        server: has its methods and its port.
        arrivals: calls whose request has not arrived; aborts new calls while the server stops.
        calls: those that have not ended.
        on_death: called with the reason if gRPC's polling thread ends, so that no more calls are served.
    """

    def __init__(self, server: Server, arrivals: Arrivals, calls: OpenCalls, on_death: Callable[[str], None]) -> None:
        self._server, self._arrivals, self._calls, self._on_death = server, arrivals, calls, on_death
        self._poller: threading.Thread | None = None
        self._stopping = threading.Event()
        self._watch = threading.Thread(target=self._wait_for_poller, name="poller watch", daemon=True)

    def start(self) -> None:
        """Accept calls."""
        self._poller = start(self._server)
        if self._poller:
            self._watch.start()

    def stop(self, grace_s: float) -> None:
        """Finish calls that have arrived, abort later calls, and after the grace abort calls without a response."""
        ends = time.monotonic() + grace_s
        if self._is_polling():
            self._until_quiet()
            self._arrivals.close()
            self._until_quiet()
        self._stopping.set()
        has_ended = self._shut_down(max(0.0, ends - time.monotonic()) + _END_TIMEOUT_S)
        self._arrivals.abort_held()
        if self._is_polling():
            self._calls.wait(max(0.0, ends - time.monotonic()))
            self._calls.abort_all(ShuttingDown(_GRACE_ENDED))
            self._until_ended(has_ended)

    def cancel_in_flight(self) -> None:
        """End the grace now: abort the calls without a response."""
        self._calls.end_wait()

    def _until_quiet(self) -> None:
        """Wait until no call is left in gRPC's core, which would cancel it on shutdown."""
        ends = time.monotonic() + _MAX_QUIET_WAIT_S
        while (left_s := min(_QUIET_S - self._arrivals.quiet_s, ends - time.monotonic())) > 0:
            self._stopping.wait(left_s)

    def _until_ended(self, has_ended: threading.Event) -> None:
        """Wait for clients to read their responses, for a time; then have gRPC cancel the remaining calls."""
        if not has_ended.wait(_END_TIMEOUT_S):
            self._shut_down(0)
            if not has_ended.wait(_END_TIMEOUT_S):
                _log.error("gRPC did not end its calls")

    def _shut_down(self, grace_s: float) -> threading.Event:
        try:
            return self._server.stop(grace_s)
        except RuntimeError:  # the system allows no more threads, and gRPC needs one for the end of the grace
            _log.exception("running calls are cancelled")
            return threading.Event()

    def _is_polling(self) -> bool:
        return self._poller is not None and self._poller.is_alive()

    def _wait_for_poller(self) -> None:
        if self._poller:
            self._poller.join()
        if not self._stopping.is_set():
            _log.error("gRPC's polling thread has ended")
            self._on_death("gRPC's polling thread has ended")


def open_server(
    threads: ThreadPoolExecutor,
    options: Sequence[tuple[str, Any]],
    interceptors: Sequence[grpc.ServerInterceptor[Any, Any]] = (),
) -> Server:
    """A gRPC server without methods and ports; over grpc.aio if this grpcio does not support `grpc_adapter`."""
    options = [("grpc.so_reuseport", 0), *options]  # a second server on this port must fail to start
    if is_supported():
        return grpc.server(threads, interceptors=list(interceptors), options=options)
    _log.warning("this grpcio lacks private names that the server uses: serving over grpc.aio, which takes more CPU")
    return AioServer(options, interceptors)


def start(server: Server) -> threading.Thread | None:
    """Start a server; returns the thread that accepts its calls."""
    if isinstance(server, AioServer):
        return server.start()
    others = set(threading.enumerate())
    server.start()
    return next(iter(set(threading.enumerate()) - others), None)  # the only thread that gRPC starts


def bind(server: Server, host: str, port: int, credentials: grpc.ServerCredentials | None) -> int:
    """Bind a port, or a free one for 0; returns its number.

    Raises:
        ConfigError: the port cannot be bound.
    """
    address, problem = join_address(host, port), listen_problem(host, port)
    try:
        if not problem and credentials:
            return server.add_secure_port(address, credentials)
        if not problem:
            return server.add_insecure_port(address)
    except RuntimeError:  # the port was taken meanwhile, or the name has another address that cannot be used
        problem = "gRPC cannot bind the port: give another"
    raise ConfigError(f"cannot listen on {address} (--host, --port): {problem}")
