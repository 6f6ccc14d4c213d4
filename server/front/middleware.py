"""Wraps every method: limits running calls, passes bytes to the worker, maps errors to a status, counts and logs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import grpc
from google.protobuf.message import Message

from swiftrec.server.errors import SwiftrecError
from swiftrec.server.front.calls import Method
from swiftrec.server.front.front import Front
from swiftrec.server.front.grpc_adapter import DispatchedMethod, Dispatcher
from swiftrec.server.front.limits import Arrivals
from swiftrec.server.front.methods import Handler
from swiftrec.server.front.stream_methods import LocalStream, WatchMethod, WorkerStream
from swiftrec.server.front.unary_methods import AbortingMethod, LocalMethod, UnaryHandler, WorkerMethod


@dataclass(frozen=True, slots=True)
class MethodKinds:
    """Full names of the methods that have their own limiter; all others are control methods or streams.

    Args:
        worker: handled by the worker.
        probes: never block, or stream the health status.
        changes: load or unload bundles.
    """

    worker: frozenset[str]
    probes: frozenset[str] = frozenset()
    changes: frozenset[str] = frozenset()


class Middleware:
    """Wraps every method when it is registered, unary or streaming.

    Args:
        front: shared by the methods.
        requests: full method name -> request type, of unary methods.
        kinds: which method has which limiter.

    Attributes:
        open: full name -> handler of a probe, for calls without a token if tokens are required.
    """

    def __init__(self, front: Front, requests: Mapping[str, type[Message]], kinds: MethodKinds) -> None:
        self._front, self._requests, self._kinds = front, requests, kinds
        self._dispatcher = Dispatcher()
        self.open: dict[str, Handler] = {}

    def wrap(self, name: str, handler: Handler) -> Handler:
        """Wrap a method."""
        if handler.unary_unary is not None and name in self._requests:
            wrapped = self._unary(name, handler.unary_unary)
            if name in self._kinds.probes:
                self.open[name] = wrapped
            return wrapped
        front, arrivals = self._front, self._arrivals(name)
        if name in self._kinds.worker:
            return self._stream(WorkerStream(front, name, front.limiters.streams, arrivals))
        if name in self._kinds.probes:
            limiters = front.limiters
            self.open[name] = self._stream(WatchMethod(front, name, limiters.open_watches, arrivals, handler))
            return self._stream(WatchMethod(front, name, limiters.watches, arrivals, handler))
        return self._stream(LocalStream(front, name, front.limiters.streams, arrivals, handler))

    def aborting(self, name: str, error: SwiftrecError) -> Handler:
        """A handler that aborts calls with an error and counts them under `name`."""
        return self._stream(AbortingMethod(self._front, name, error))

    def _stream(self, method: Method) -> Handler:
        """A handler that also accepts unary calls."""
        return grpc.stream_stream_rpc_method_handler(DispatchedMethod(method, self._dispatcher))

    def _unary(self, name: str, handler: UnaryHandler) -> Handler:
        return grpc.unary_unary_rpc_method_handler(
            DispatchedMethod(self._unary_method(name, handler), self._dispatcher)
        )

    def _unary_method(self, name: str, handler: UnaryHandler) -> Method:
        limiters, arrivals = self._front.limiters, self._arrivals(name)
        if name in self._kinds.worker:
            return WorkerMethod(self._front, name, limiters.calls, arrivals)
        is_probe = name in self._kinds.probes
        limiter = limiters.probes if is_probe else limiters.control
        if name in self._kinds.changes:
            limiter = limiters.changes
        kind = self._requests[name]
        return LocalMethod(self._front, name, limiter, arrivals, kind, handler, may_block=not is_probe)

    def _arrivals(self, name: str) -> Arrivals:
        return self._front.probe_arrivals if name in self._kinds.probes else self._front.arrivals
