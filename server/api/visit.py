"""One unary call at the desk, by the parts of grpc._server that are not public.

They are the same ones as `grpc.unary_unary_rpc_method_handler`'s own path (grpc/_server.py, `_unary_response_in_pool`).
Where a version of grpcio does not have them, `can_desk` says no and calls take threads as usual.
"""

from __future__ import annotations

import importlib
import inspect
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

import grpc

from server.pipeline.call import Call
from server.telemetry.traces import Work

_log = logging.getLogger(__name__)
_MISSING = b"the method takes one request, none came"
_LATE = b"the request did not come in time"
# Functions with the names of their parameters, attributes of a call's state, operations.
_FUNCTIONS = {
    "_Context": ("rpc_event", "state", "request_deserializer"),
    "_abort": ("state", "call", "code", "details"),
    "_is_rpc_state_active": ("state",),
    "_receive_message": ("state", "call", "request_deserializer"),
    "_select_thread_pool_for_behavior": ("behavior", "default_thread_pool"),
    "_serialize_response": ("rpc_event", "state", "response", "response_serializer"),
    "_status": ("rpc_event", "state", "serialized_response"),
    "_unary_response_in_pool": (
        *("rpc_event", "state", "behavior", "argument_thunk", "request_deserializer", "response_serializer"),
    ),
}
_STATE = ("aborted", "callbacks", "client", "condition", "due", "request")
_OPERATIONS = ("ReceiveMessageOperation", "StatusCode")
ARGUMENTS = len(_FUNCTIONS["_unary_response_in_pool"])


def _part(name: str) -> Any:  # noqa: ANN401 (it has no types)
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


_private = _part("grpc._server")
_cygrpc = _part("grpc._cython.cygrpc")


def can_desk() -> bool:
    """Whether this grpcio has the parts that a desk works with."""
    try:
        state = _private._RPCState()
        return (
            all(tuple(inspect.signature(getattr(_private, name)).parameters) == of for name, of in _FUNCTIONS.items())
            and all(hasattr(state, name) for name in _STATE)
            and all(hasattr(_cygrpc, name) for name in _OPERATIONS)
            and hasattr(_private, "_CLOSED")
            and isinstance(_private._RECEIVE_MESSAGE_TOKEN, str)
        )
    except (AttributeError, TypeError, ValueError):
        return False


class Awaitable(Protocol):
    """A method whose answer is awaited."""

    @property
    def is_quick(self) -> bool:
        """Whether it never blocks, so that the polling thread may begin it."""

    def begin(self, data: bytes, context: grpc.ServicerContext, /) -> Coroutine[Call, None, object]:
        """The coroutine that answers."""

    def without_request(self, context: grpc.ServicerContext, started: float, /) -> Callable[[str], None]:
        """Called where a call ends before its request has come; returns what records the code that it ends with."""


class Takes(Protocol):
    """What visits come to."""

    def take(self, visit: Visit, size: int, /) -> None:
        """The request of so many bytes is there."""

    def forget(self, visit: Visit, /) -> None:
        """It need not be waited for any more."""


class Visit:
    """One call. For gRPC it is the future of a thread's work: it asks to be told of the end, no more.

    Args:
        desk: told when the request is there.
        event, state: gRPC's, of this call.
        behaviour: the method.
        serialise: makes bytes of its answer.
        started: when the call came, on the clock.
        deadline: when its request must have come.
    """

    __slots__ = (
        *("_desk", "_ended", "_event", "_has_come", "_is_ended", "_is_refused", "_keep", "_serialise"),
        *("_record", "_started", "_state", "behaviour", "coroutine", "deadline", "works"),
    )

    def __init__(
        self,
        desk: Takes,
        event: Any,  # noqa: ANN401
        state: Any,  # noqa: ANN401
        behaviour: Awaitable,
        serialise: Callable[[object], bytes],
        started: float,
        deadline: float,
    ) -> None:
        self._desk, self._event, self._state = desk, event, state
        self.behaviour, self._serialise, self._started, self.deadline = behaviour, serialise, started, deadline
        self._keep = _private._receive_message(state, event.call, None)
        self._ended: Callable[[object], None] | None = None
        self._has_come = self._is_refused = self._is_ended = False
        self._record: Callable[[str], None]
        self.coroutine: Coroutine[Call, None, object]
        self.works: list[Work] = []

    def ask(self) -> None:
        """Ask gRPC for the request; called by its polling thread, under the call's lock."""
        self._event.call.start_server_batch((_cygrpc.ReceiveMessageOperation(0),), self.received)
        self._state.due.add(_private._RECEIVE_MESSAGE_TOKEN)

    def add_done_callback(self, ended: Callable[[object], None]) -> None:
        """Called at once by gRPC, in its polling thread, before any message can be there."""
        self._ended = ended

    def received(self, event: Any) -> Any:  # noqa: ANN401
        """The message is there, or never comes; called in gRPC's polling thread, which must not see an error."""
        following = self._keep(event)
        try:
            self._desk.forget(self)
            with self._state.condition:
                data, self._state.request = self._state.request, None
                self._has_come = True
            if data is None or self._is_refused:
                self._turn_away()
            else:
                self.coroutine = self.behaviour.begin(data, self._context())
                self._desk.take(self, len(data))
        except Exception:  # noqa: BLE001 (the poller lives on, whatever it is)
            self.refuse()
        return following

    def cancel(self) -> None:
        """The request has not come in time: end the call, after which gRPC says that it never comes."""
        try:
            with self._state.condition:
                has_come = self._has_come or self._state.request is not None
                if not has_come and _private._is_rpc_state_active(self._state):
                    self._is_refused = True
                    self.behaviour.without_request(self._context(), self._started)("DEADLINE_EXCEEDED")
                    _private._abort(self._state, self._event.call, _cygrpc.StatusCode.deadline_exceeded, _LATE)
        except Exception:  # noqa: BLE001 (it concerns this call alone)
            self._give_up("a status could not be sent")

    def answer(self, message: object) -> None:
        """Send the answer."""
        try:
            data = _private._serialize_response(self._event, self._state, message, self._serialise)
            if data is not None:
                _private._status(self._event, self._state, data)
        except Exception:  # noqa: BLE001 (it concerns this call alone)
            self._give_up("an answer could not be sent")
        self._end()

    def refuse(self) -> None:
        """Send the status that was set, or UNKNOWN if none was; called where an error is handled."""
        if not self._state.aborted:
            _log.exception("a call was not answered")
        try:
            with self._state.condition:
                if _private._is_rpc_state_active(self._state):
                    _private._abort(self._state, self._event.call, _cygrpc.StatusCode.unknown, b"RPC aborted")
        except Exception:  # noqa: BLE001 (it concerns this call alone)
            self._give_up("a status could not be sent")
        self._end()

    def _turn_away(self) -> None:
        """The request never comes: its time is up, the client has ended its side without one, or has gone."""
        with self._state.condition:
            if not self._is_refused:
                self._record = self.behaviour.without_request(self._context(), self._started)
                if self._state.client is _private._CLOSED:
                    self._state.callbacks.append(
                        self._record_end
                    )  # a cancel looks the same until gRPC says how it ended
                    _private._abort(self._state, self._event.call, _cygrpc.StatusCode.unimplemented, _MISSING)
                else:
                    self._record_end()
        self._end()

    def _record_end(self) -> None:
        """Record how the call ended that had no request."""
        if self._state.client is _private._CLOSED:
            self._record("UNIMPLEMENTED")
        elif self._context().time_remaining():
            self._record("CANCELLED")
        else:  # gRPC says that the client has gone when its deadline has passed
            self._record("DEADLINE_EXCEEDED")

    def _context(self) -> grpc.ServicerContext:
        context: grpc.ServicerContext = _private._Context(self._event, self._state, None)
        return context

    def _give_up(self, why: str) -> None:
        """Nothing can be said to the client: let it see that, rather than wait for its deadline."""
        _log.exception(why)
        self._event.call.cancel()

    def _end(self) -> None:
        if self._ended and not self._is_ended:
            self._is_ended = True
            self._ended(self)
