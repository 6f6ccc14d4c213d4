"""The gRPC server: its start, and an end that loses no call."""

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

_QUIET_S = 0.05  # without a call: those that gRPC's core held have been taken
_MAX_QUIET_WAIT_S = 0.5  # where clients go on calling
_SPARE_S = 1.0  # after the grace, for clients to take their answers, and for gRPC to end what it has cancelled
_CUT = "the server stops and cannot wait for the answer any longer: send the call to another server, or again later"
_log = logging.getLogger(__name__)
Server: TypeAlias = "grpc.Server | AioServer"


class Endpoint:
    """Serves one port.

    Args:
        server: with its methods and its port.
        arrivals: of the calls that are refused once the server stops.
        calls: those that have not ended.
        on_death: called with the reason if gRPC's polling thread ends: no call is answered any more.
    """

    def __init__(self, server: Server, arrivals: Arrivals, calls: OpenCalls, on_death: Callable[[str], None]) -> None:
        self._server, self._arrivals, self._calls, self._on_death = server, arrivals, calls, on_death
        self._poller: threading.Thread | None = None
        self._stopping = threading.Event()
        self._watch = threading.Thread(target=self._wait_for_poller, name="poller watch", daemon=True)

    def start(self) -> None:
        """Take calls."""
        self._poller = start(self._server)
        if self._poller:
            self._watch.start()

    def stop(self, grace_s: float) -> None:
        """Take what has arrived, refuse later calls, and at the end of the grace those that have no answer."""
        ends = time.monotonic() + grace_s
        if self._is_polling():
            self._until_quiet()
            self._arrivals.close()
            self._until_quiet()
        self._stopping.set()
        has_ended = self._shut_down(max(0.0, ends - time.monotonic()) + _SPARE_S)
        self._arrivals.refuse()
        if self._is_polling():
            self._calls.wait(max(0.0, ends - time.monotonic()))
            self._calls.refuse(ShuttingDown(_CUT))
            self._until_ended(has_ended)

    def hurry(self) -> None:
        """End the grace: refuse the calls that have no answer."""
        self._calls.hurry()

    def _until_quiet(self) -> None:
        """Wait until the calls in gRPC's core were taken: it cancels them when it shuts down."""
        ends = time.monotonic() + _MAX_QUIET_WAIT_S
        while (left_s := min(_QUIET_S - self._arrivals.quiet_s, ends - time.monotonic())) > 0:
            self._stopping.wait(left_s)

    def _until_ended(self, has_ended: threading.Event) -> None:
        """Wait until clients have their answers, for a time; gRPC cancels the calls of those that do not read."""
        if not has_ended.wait(_SPARE_S):
            self._shut_down(0)
            if not has_ended.wait(_SPARE_S):
                _log.error("gRPC did not end its calls")

    def _shut_down(self, grace_s: float) -> threading.Event:
        try:
            return self._server.stop(grace_s)
        except RuntimeError:  # the system allows no more threads, and gRPC needs one for the end of the grace
            _log.exception("the calls that still run are cut off")
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
    """A gRPC server without methods and port; over grpc.aio where grpcio lacks what `grpc_adapter` uses."""
    options = [("grpc.so_reuseport", 0), *options]  # a second server on this port must fail to start
    if is_supported():
        return grpc.server(threads, interceptors=list(interceptors), options=options)
    _log.warning("this grpcio lacks private names that the server uses: serving over grpc.aio, which takes more CPU")
    return AioServer(options, interceptors)


def start(server: Server) -> threading.Thread | None:
    """Start a server; the thread that takes its calls."""
    if isinstance(server, AioServer):
        return server.start()
    others = set(threading.enumerate())
    server.start()
    return next(iter(set(threading.enumerate()) - others), None)  # the one thread that gRPC starts


def bind(server: Server, host: str, port: int, credentials: grpc.ServerCredentials | None) -> int:
    """Take a port; 0 takes a free one. Its number.

    Raises:
        ConfigError: it cannot be had.
    """
    address, problem = join_address(host, port), listen_problem(host, port)
    try:
        if not problem and credentials:
            return server.add_secure_port(address, credentials)
        if not problem:
            return server.add_insecure_port(address)
    except RuntimeError:  # the port was taken meanwhile, or a name has another address that cannot be used
        problem = "gRPC cannot use the port: give another"
    raise ConfigError(f"cannot listen on {address} (--host, --port): {problem}")
