"""Around every method: limits what runs, passes bytes to the worker, maps errors to a status, counts and logs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import grpc
from google.protobuf.message import Message

from swiftrec.server.errors import SwiftrecError
from swiftrec.server.front.calls import Method
from swiftrec.server.front.framed import Behaviour, LocalMethod, RefusedMethod, WorkerMethod
from swiftrec.server.front.front import Front
from swiftrec.server.front.grpc_adapter import Dispatched, Dispatcher
from swiftrec.server.front.limits import Arrivals
from swiftrec.server.front.methods import Handler
from swiftrec.server.front.stream_methods import LocalStream, WatchMethod, WorkerStream


@dataclass(frozen=True, slots=True)
class Kinds:
    """Full names of the methods that have places of their kind; any other is a control method or a stream.

    Args:
        worker: the worker answers them.
        probes: never block, or are health's stream.
        changes: load or unload bundles.
    """

    worker: frozenset[str]
    probes: frozenset[str] = frozenset()
    changes: frozenset[str] = frozenset()


class Middleware:
    """Wraps every method when it is registered, whichever of gRPC's four shapes it has.

    Args:
        front: what methods share.
        requests: full method name -> request type, of unary methods.
        kinds: of methods.

    Attributes:
        open: full name -> handler of probes for calls without a token, where tokens are needed.
    """

    def __init__(self, front: Front, requests: Mapping[str, type[Message]], kinds: Kinds) -> None:
        self._front, self._requests, self._kinds = front, requests, kinds
        self._dispatcher = Dispatcher()
        self.open: dict[str, Handler] = {}

    def wrap(self, name: str, handler: Handler) -> Handler:
        """The method with everything around it."""
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

    def refusing(self, name: str, error: SwiftrecError) -> Handler:
        """Stands in place of a method: refuses calls, which are counted by that name."""
        return self._stream(RefusedMethod(self._front, name, error))

    def _stream(self, method: Method) -> Handler:
        """Fits calls of each shape."""
        return grpc.stream_stream_rpc_method_handler(Dispatched(method, self._dispatcher))

    def _unary(self, name: str, behaviour: Behaviour) -> Handler:
        return grpc.unary_unary_rpc_method_handler(Dispatched(self._unary_method(name, behaviour), self._dispatcher))

    def _unary_method(self, name: str, behaviour: Behaviour) -> Method:
        limiters, arrivals = self._front.limiters, self._arrivals(name)
        if name in self._kinds.worker:
            return WorkerMethod(self._front, name, limiters.calls, arrivals)
        is_probe = name in self._kinds.probes
        limiter = limiters.probes if is_probe else limiters.control
        if name in self._kinds.changes:
            limiter = limiters.changes
        kind = self._requests[name]
        return LocalMethod(self._front, name, limiter, arrivals, kind, behaviour, may_block=not is_probe)

    def _arrivals(self, name: str) -> Arrivals:
        return self._front.probe_arrivals if name in self._kinds.probes else self._front.arrivals
