"""The server's methods, each wrapped once when it is registered: an interceptor would do it again for each call."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias, cast

import grpc

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class Methods(grpc.GenericRpcHandler):  # type: ignore[type-arg] # the stub is generic, the class is not
    """Stands where generated code expects a server, and collects what it registers.

    Args:
        wrap: (full method name, handler) -> the handler that serves.
    """

    def __init__(self, wrap: Callable[[str, Handler], Handler]) -> None:
        self._wrap = wrap
        self._services: dict[str, dict[str, Handler]] = {}
        self._all: dict[str, Handler] = {}

    def add_generic_rpc_handlers(self, handlers: Iterable[object]) -> None:
        """Nothing: the same methods come as registered ones, too."""

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Handler]) -> None:
        """Take a service's methods."""
        wrapped = {name: self._wrap(f"/{service}/{name}", handler) for name, handler in handlers.items()}
        self._services[service] = wrapped
        self._all |= {f"/{service}/{name}": handler for name, handler in wrapped.items()}

    def names(self) -> list[str]:
        """Full names of every method."""
        return sorted(self._all)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """The handler of a method by its full name."""
        return self._all.get(handler_call_details.method)

    def as_server(self) -> grpc.Server:
        """For generated code, which asks nothing else of a server than the two methods above."""
        return cast("grpc.Server", self)

    def install(self, server: Any) -> None:  # noqa: ANN401 (the stub of grpc.Server lacks a method)
        """Give everything to the server."""
        server.add_generic_rpc_handlers((self,))
        for service, handlers in self._services.items():
            server.add_registered_method_handlers(service, handlers)
