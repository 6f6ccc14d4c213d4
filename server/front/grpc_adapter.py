"""Calls as gRPC's core has them: bytes come in, bytes or a status go out.

Nothing else uses the private names of grpcio.

grpc.server gives every call a thread of its pool that waits for the request and then for the response. Here the request
is read in gRPC's polling thread and the response is sent by the thread that has made it, so waiting needs no thread;
a stream needs one from its first message on. The parts used are those of gRPC's own paths (grpc/_server.py,
`_unary_response_in_pool` and `_stream_response_in_pool`); where a version of grpcio does not have them, `is_supported`
is false and `aio_server` serves.
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
# Functions with the names of their parameters, attributes of a call's state, operations.
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


def _part(name: str) -> Any:  # noqa: ANN401 (it has no types)
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


_private = _part("grpc._server")
_cygrpc = _part("grpc._cython.cygrpc")


def is_supported() -> bool:
    """Whether this grpcio has the parts that are used here."""
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
    """One call: `server.front.calls.Call`. For gRPC it is the future of a thread's work.

    Attributes:
        started: when the call came, on the monotonic clock.
        note: data of its method.
    """

    __slots__ = (
        *("_claims", "_deadline", "_event", "_is_ended", "_keep", "_method", "_on_end", "_state"),
        *("note", "started"),
    )

    def __init__(self, event: Any, state: Any, method: Method) -> None:  # noqa: ANN401 (gRPC's have no types)
        self._event, self._state, self._method = event, state, method
        self.started = time.monotonic()
        self._deadline = self.started + float(event.call_details.deadline) - time.time()  # the wall clock may jump
        self._claims = [None]  # pop is atomic: who has it ends the call
        self._keep = _private._receive_message(state, event.call, None)
        self._on_end: Callable[[object], None] | None = None
        self._is_ended = False
        self.note: Any = None

    @property
    def metadata(self) -> Metadata:
        """What the client sent beside the request."""
        found: Metadata = self._event.invocation_metadata or ()
        return found

    @property
    def time_left_s(self) -> float:
        """Seconds until the client's deadline; huge if it set none."""
        return self._deadline - time.monotonic()

    @property
    def is_cancelled(self) -> bool:
        """Whether the client has cancelled the call or its deadline has passed."""
        return bool(self._state.client is _private._CANCELLED)

    @property
    def has_half_closed(self) -> bool:
        """Whether the client has ended its side."""
        return bool(self._state.client is _private._CLOSED)

    @property
    def code(self) -> str:
        """Name of the code that was set for the response, if any was."""
        code: grpc.StatusCode | None = self._state.code
        return code.name if code else "OK"

    @property
    def messages(self) -> Iterator[bytes]:
        """The messages after the first one; blocks."""
        messages: Iterator[bytes] = _private._RequestIterator(self._state, self._event.call, None)
        return messages

    def context(self) -> grpc.ServicerContext:
        """For methods that are written against gRPC's own interface."""
        context: grpc.ServicerContext = _private._Context(self._event, self._state, None)
        return context

    def start(self) -> None:
        """Ask gRPC for the request; called by its polling thread, under the call's lock."""
        self._state.callbacks.append(self._over)
        try:
            self._method.begin(self)
            self._event.call.start_server_batch((_cygrpc.ReceiveMessageOperation(0),), self._received)
            self._state.due.add(_private._RECEIVE_MESSAGE_TOKEN)
        except Exception:  # noqa: BLE001 (it concerns this call alone: an error would end gRPC's polling thread)
            self._abort_transport("a call was not taken")

    def add_done_callback(self, on_end: Callable[[object], None]) -> None:
        """Called at once by gRPC, in its polling thread, before any message can be there."""
        self._on_end = on_end

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        """What is sent with the status."""
        self._state.trailing_metadata = tuple(metadata)

    def claim(self) -> bool:
        """Whether the caller is the first to decide how the call ends."""
        try:
            self._claims.pop()
        except IndexError:
            return False
        return True

    def send(self, response: bytes) -> bool:
        """Send a response of a stream and wait until the client takes it; False if it never will."""
        return bool(_private._send_response(self._event, self._state, response))

    def respond(self, message: bytes | None) -> None:
        """End the call well."""
        try:
            _private._status(self._event, self._state, message)
        except Exception:  # noqa: BLE001 (it concerns this call alone)
            self._abort_transport("a response could not be sent")

    def refuse(self, code: grpc.StatusCode, details: str, metadata: Metadata) -> None:
        """End the call with a status."""
        try:
            with self._state.condition:
                self.set_trailing_metadata(metadata)
                if _private._is_rpc_state_active(self._state):
                    _private._abort(self._state, self._event.call, code.value[0], details.encode())
        except Exception:  # noqa: BLE001 (it concerns this call alone)
            self._abort_transport("a status could not be sent")

    def abort_transport(self) -> None:
        """Cancel the call: nothing can be sent to the client any more."""
        self._event.call.cancel()

    def _received(self, event: Any) -> Any:  # noqa: ANN401 (gRPC's)
        """The message has arrived, or never will; an error must not reach gRPC's polling thread."""
        following = self._keep(event)
        try:
            with self._state.condition:
                message, self._state.request = self._state.request, None
            if message is None:
                self._method.missed(self)
            else:
                self._method.receive(self, message)
        except Exception:  # noqa: BLE001 (it concerns this call alone)
            _log.exception("a call was not taken")
            if self.claim():
                self.refuse(grpc.StatusCode.INTERNAL, "internal error", ())
        return following

    def _over(self) -> None:
        try:
            self._method.over(self)
        finally:
            if self._on_end and not self._is_ended:
                self._is_ended = True
                self._on_end(self)

    def _abort_transport(self, reason: str) -> None:
        """No status can be sent: cancel, so that the client sees it at once and not at its deadline."""
        _log.exception(reason)
        self.abort_transport()


class Dispatcher(ThreadPoolExecutor):
    """Given to gRPC in place of a method's thread pool; takes calls, and runs nothing itself."""

    def __init__(self) -> None:
        super().__init__(1)

    def submit(self, *work: Any) -> Any:  # type: ignore[override] # noqa: ANN401 (gRPC alone calls it)
        """Take a call, from what gRPC would have a thread run; called by its polling thread under the call's lock."""
        event, state, behaviour = work[-_ARGUMENTS : 3 - _ARGUMENTS]
        call = GrpcCall(event, state, behaviour.method)
        call.start()
        return call


class Dispatched:
    """A method as gRPC finds it: grpc.server gives its calls to the dispatcher, `aio_server` to the method."""

    def __init__(self, method: Method, dispatcher: Dispatcher) -> None:
        self.method = method
        self.experimental_thread_pool = dispatcher  # the name that gRPC looks for

    def __call__(self, messages: object, context: grpc.ServicerContext) -> NoReturn:
        """Never called: the dispatcher has the calls."""
        raise NotImplementedError
