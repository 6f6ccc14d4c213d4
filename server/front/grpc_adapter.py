"""Calls over grpc.server. The only module that uses private names of grpcio.

grpc.server occupies a thread of its pool for each call, which waits for the request and then for the response. Here the
request is read in gRPC's polling thread and the response is sent by the thread that made it, so no thread waits; a
stream needs a thread from its first message on. The functions used are those that gRPC itself uses (grpc/_server.py,
`_unary_response_in_pool` and `_stream_response_in_pool`). If a version of grpcio does not have them, `is_supported`
returns False and `aio_server` is used.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import grpc

from swiftrec.server.front.calls import Metadata, Method

_log = logging.getLogger(__name__)
_IN_POOL = ("rpc_event", "state", "behavior", "argument_thunk", "request_deserializer", "response_serializer")
# Functions and their parameters.
_FUNCTIONS = {
    "_Context": ("rpc_event", "state", "request_deserializer"),
    "_RequestIterator": ("state", "call", "request_deserializer"),
    "_abort": ("state", "call", "code", "details"),
    "_is_rpc_state_active": ("state",),
    "_receive_message": ("state", "call", "request_deserializer"),
    "_send_response": ("rpc_event", "state", "serialized_response"),
    "_select_thread_pool_for_behavior": ("behavior", "default_thread_pool"),
    "_status": ("rpc_event", "state", "serialized_response"),
    "_stream_response_in_pool": _IN_POOL,
    "_unary_response_in_pool": _IN_POOL,
}
_STATE = ("callbacks", "client", "code", "condition", "due", "request", "statused", "trailing_metadata")
_ARGUMENTS = len(_IN_POOL)


def _import(name: str) -> Any:  # noqa: ANN401 (it has no types)
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


_private = _import("grpc._server")
_cygrpc = _import("grpc._cython.cygrpc")


def is_supported() -> bool:
    """Whether this version of grpcio has everything that is used here."""
    try:
        state = _private._RPCState()
        return (
            all(
                tuple(inspect.signature(getattr(_private, name)).parameters) == names
                for name, names in _FUNCTIONS.items()
            )
            and all(hasattr(state, name) for name in _STATE)
            and all(hasattr(_private, name) for name in ("_CANCELLED", "_CLOSED"))
            and hasattr(_cygrpc, "ReceiveMessageOperation")
            and isinstance(_private._RECEIVE_MESSAGE_TOKEN, str)
        )
    except (AttributeError, TypeError, ValueError):
        return False


class GrpcCall:
    """One call: `server.front.calls.Call`. gRPC uses it as the future of a thread's work.

    Attributes:
        started: when the call arrived, on the monotonic clock.
        method_state: data of its method.
    """

    __slots__ = (
        *("_claims", "_deadline", "_event", "_is_ended", "_on_event", "_method", "_on_end", "_state"),
        *("method_state", "started"),
    )

    def __init__(self, event: Any, state: Any, method: Method) -> None:  # noqa: ANN401 (gRPC's have no types)
        self._event, self._state, self._method = event, state, method
        self.started = time.monotonic()
        self._deadline = self.started + float(event.call_details.deadline) - time.time()  # the wall clock may jump
        self._claims = [None]  # pop is atomic: the caller that gets the item ends the call
        self._on_event = _private._receive_message(state, event.call, None)
        self._on_end: Callable[[object], None] | None = None
        self._is_ended = False
        self.method_state: Any = None

    @property
    def metadata(self) -> Metadata:
        """The metadata that the client sent."""
        metadata: Metadata = self._event.invocation_metadata or ()
        return metadata

    @property
    def time_left_s(self) -> float:
        """Seconds until the client's deadline; a huge number if it set none."""
        return self._deadline - time.monotonic()

    @property
    def is_cancelled(self) -> bool:
        """Whether the client has cancelled the call or its deadline has passed."""
        return bool(self._state.client is _private._CANCELLED)

    @property
    def has_half_closed(self) -> bool:
        """Whether the client will send no more messages."""
        return bool(self._state.client is _private._CLOSED)

    @property
    def code(self) -> str:
        """Name of the status code that was set; "OK" if none was."""
        code: grpc.StatusCode | None = self._state.code
        return code.name if code else "OK"

    @property
    def messages(self) -> Iterator[bytes]:
        """The messages after the first one; blocks while waiting for the next."""
        messages: Iterator[bytes] = _private._RequestIterator(self._state, self._event.call, None)
        return messages

    def context(self) -> grpc.ServicerContext:
        """A context for handlers that use gRPC's own interface."""
        context: grpc.ServicerContext = _private._Context(self._event, self._state, None)
        return context

    def start(self) -> None:
        """Start to receive the request; called by gRPC's polling thread, under the call's lock."""
        self._state.callbacks.append(self._on_rpc_end)
        try:
            self._method.on_call(self)
            self._event.call.start_server_batch((_cygrpc.ReceiveMessageOperation(0),), self._on_received)
            self._state.due.add(_private._RECEIVE_MESSAGE_TOKEN)
        except Exception:  # noqa: BLE001 (affects only this call: raised, it would end gRPC's polling thread)
            self._abort_transport("a call could not be handled")

    def add_done_callback(self, on_end: Callable[[object], None]) -> None:
        """Called by gRPC in its polling thread, before any message can arrive."""
        self._on_end = on_end

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        """Set the metadata that is sent with the status."""
        self._state.trailing_metadata = tuple(metadata)

    def claim(self) -> bool:
        """Claim the right to end the call; True for the first caller only."""
        try:
            self._claims.pop()
        except IndexError:
            return False
        return True

    def send(self, response: bytes) -> bool:
        """Send a response of a stream and wait until the client receives it; False if it never will."""
        return bool(_private._send_response(self._event, self._state, response))

    def respond(self, message: bytes | None) -> None:
        """End the call with OK."""
        try:
            _private._status(self._event, self._state, message)
        except Exception:  # noqa: BLE001 (affects only this call)
            self._abort_transport("a response could not be sent")

    def abort(self, code: grpc.StatusCode, details: str, metadata: Metadata) -> None:
        """End the call with a status."""
        try:
            with self._state.condition:
                self.set_trailing_metadata(metadata)
                if _private._is_rpc_state_active(self._state):
                    _private._abort(self._state, self._event.call, code.value[0], details.encode())
        except Exception:  # noqa: BLE001 (affects only this call)
            self._abort_transport("a status could not be sent")

    def abort_transport(self) -> None:
        """Cancel the call without sending a status."""
        self._event.call.cancel()

    def _on_received(self, event: Any) -> Any:  # noqa: ANN401 (gRPC's)
        """Receive the message, or its absence; must not raise in gRPC's polling thread."""
        following = self._on_event(event)
        try:
            with self._state.condition:
                message, self._state.request = self._state.request, None
            if message is None:
                self._method.on_no_message(self)
            else:
                self._method.on_message(self, message)
        except Exception:  # noqa: BLE001 (affects only this call)
            _log.exception("a call could not be handled")
            if self.claim():
                self.abort(grpc.StatusCode.INTERNAL, "internal error", ())
        return following

    def _on_rpc_end(self) -> None:
        try:
            self._method.on_end(self)
        finally:
            if self._on_end and not self._is_ended:
                self._is_ended = True
                self._on_end(self)

    def _abort_transport(self, reason: str) -> None:
        """Cancel a call to which no status can be sent, so that the client fails before its deadline."""
        _log.exception(reason)
        self.abort_transport()


class Dispatcher(ThreadPoolExecutor):
    """Replaces the thread pool that gRPC would run a method in; receives calls, but runs nothing."""

    def __init__(self) -> None:
        super().__init__(1)

    def submit(self, *work: Any) -> Any:  # type: ignore[override] # noqa: ANN401 (gRPC alone calls it)
        """Receive a call: called by gRPC's polling thread, under the call's lock, with the work for a thread."""
        event, state, behaviour = work[-_ARGUMENTS : 3 - _ARGUMENTS]
        call = GrpcCall(event, state, behaviour.method)
        call.start()
        return call


class DispatchedMethod:
    """A method as registered with gRPC: grpc.server passes its calls to the dispatcher, `aio_server` to the method."""

    def __init__(self, method: Method, dispatcher: Dispatcher) -> None:
        self.method = method
        self.experimental_thread_pool = dispatcher  # the name that gRPC looks for

    def __call__(self, messages: object, context: grpc.ServicerContext) -> NoReturn:
        """Never called: the dispatcher receives the calls."""
        raise NotImplementedError
