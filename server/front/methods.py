"""The table of methods. Each is wrapped once, when it is registered; an interceptor would run for every call."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias, cast

import grpc

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class MethodTable(grpc.GenericRpcHandler):  # type: ignore[type-arg] # the stub is generic, the class is not
    """Collects the methods that generated code registers, in place of a server.

    Args:
        wrap: (full method name, handler) -> the handler to serve.
    """

    def __init__(self, wrap: Callable[[str, Handler], Handler]) -> None:
        self._wrap = wrap
        self._services: dict[str, dict[str, Handler]] = {}
        self._all: dict[str, Handler] = {}

    def add_generic_rpc_handlers(self, handlers: Iterable[object]) -> None:
        """Do nothing: the same methods are also registered by name."""

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Handler]) -> None:
        """Add the methods of a service."""
        wrapped = {name: self._wrap(f"/{service}/{name}", handler) for name, handler in handlers.items()}
        self._services[service] = wrapped
        self._all |= {f"/{service}/{name}": handler for name, handler in wrapped.items()}

    def names(self) -> list[str]:
        """The full names of all methods."""
        return sorted(self._all)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """The handler of a method, looked up by its full name."""
        return self._all.get(handler_call_details.method)

    def as_server(self) -> grpc.Server:
        """This object, typed for generated code, which only uses the two methods above."""
        return cast("grpc.Server", self)

    def install(self, server: Any) -> None:  # noqa: ANN401 (the stub of grpc.Server lacks a method)
        """Register all methods with a server."""
        server.add_generic_rpc_handlers((self,))
        for service, handlers in self._services.items():
            server.add_registered_method_handlers(service, handlers)
