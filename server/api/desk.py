"""Unary calls that hold no thread while they wait.

grpc.server gives every call a thread of its pool that waits for the request and then for the answer: three switches of
threads a call. A `Desk` stands where gRPC asks a method for a pool of its own. It reads the request in gRPC's polling
thread, runs the method's coroutine there up to the call that it awaits, and runs the rest in a finishing thread once
the batchers are through. Measured in docs/decisions/005.

It works with parts of grpc._server that are not public, the same ones as `grpc.unary_unary_rpc_method_handler`'s own
path (grpc/_server.py, `_unary_response_in_pool`). Where a version of grpcio does not have them, `can_desk` says no and
calls take threads as usual.
"""

from __future__ import annotations

import inspect
import logging
import queue
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol

import grpc
from grpc import _cython, _server

from server.api.deadlines import Deadlines
from server.pipeline.call import Call
from server.telemetry.traces import Notes, Work

_log = logging.getLogger(__name__)
_private: Any = _server
_cygrpc: Any = _cython.cygrpc  # type: ignore[attr-defined] # it has no stub
_INLINE_BYTES = 2_048  # a larger request is taken by a thread, since nobody else is served while the poller works
_PRIVATE = (
    *("_Context", "_RECEIVE_MESSAGE_TOKEN", "_abort", "_is_rpc_state_active", "_receive_message"),
    *("_select_thread_pool_for_behavior", "_serialize_response", "_status", "_unary_response_in_pool"),
)
_ARGUMENTS = ("rpc_event", "state", "behavior", "argument_thunk", "request_deserializer", "response_serializer")


class Awaitable(Protocol):
    """A method whose answer is awaited."""

    def begin(self, data: bytes, context: grpc.ServicerContext, /) -> Coroutine[Call, None, object]:
        """The coroutine that answers."""


def can_desk() -> bool:
    """Whether this grpcio has the parts that a desk works with."""
    if not all(hasattr(_private, name) for name in _PRIVATE):
        return False
    return tuple(inspect.signature(_private._unary_response_in_pool).parameters) == _ARGUMENTS


class Desk(ThreadPoolExecutor):
    """Where unary calls are taken and handed out. It is a thread pool in name only, because gRPC asks for one.

    Args:
        threads: take the large requests.
        finishers: threads that make the last step of each call: search, reply.
        deadlines: end calls that are late.
        notes: what is noted of a call while it has no thread; None: nothing is.
        on_death: called if a finishing thread dies.
    """

    def __init__(
        self,
        threads: Executor,
        finishers: int,
        deadlines: Deadlines,
        notes: Notes | None = None,
        on_death: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(1)
        self._large, self._deadlines, self._notes, self._on_death = threads, deadlines, notes, on_death
        self._through: queue.SimpleQueue[_Visit | None] = queue.SimpleQueue()
        self._finishers = [
            threading.Thread(target=self._finish, name=f"finish-{n}", daemon=True) for n in range(finishers)
        ]

    def start(self) -> None:
        """Begin to finish calls."""
        for thread in self._finishers:
            thread.start()

    def stop(self) -> None:
        """End the finishing threads, after what is through by now."""
        for thread in self._finishers:
            if thread.ident is not None:
                self._through.put(None)
        for thread in self._finishers:
            if thread.ident is not None:
                thread.join()

    def submit(self, *work: Any) -> Any:  # type: ignore[override] # noqa: ANN401 (gRPC alone calls it)
        """Ask for the request's message; `_Visit.received` goes on when it is there.

        Args:
            work: what a thread would run, and the arguments of `_unary_response_in_pool`; gRPC's polling thread calls
                it under the call's lock.
        """
        event, state, behaviour, _read, _deserialise, serialise = work[-len(_ARGUMENTS) :]
        visit = _Visit(self, event, state, behaviour, serialise)
        operations = (_cygrpc.ReceiveMessageOperation(0),)
        event.call.start_server_batch(operations, visit.received)
        state.due.add(_private._RECEIVE_MESSAGE_TOKEN)
        return visit

    def take(self, visit: _Visit, size: int) -> None:
        """The request is there: begin to answer it."""
        if size <= _INLINE_BYTES:
            self.go_on(visit)
        else:
            self._large.submit(self.go_on, visit)

    def go_on(self, visit: _Visit) -> None:
        """Run the visit's coroutine to its end, or up to a call that has to be waited for."""
        if self._notes:
            self._notes.put(visit.works)
        try:
            while True:
                call = visit.coroutine.send(None)
                if self._notes:
                    visit.works = self._notes.take()
                self._deadlines.watch(call)
                if call.then(partial(self._resume, visit, call)):
                    return
                self._deadlines.forget(call)
        except StopIteration as end:
            visit.answer(end.value)
        except Exception:  # noqa: BLE001 (the edge has told of it and has set the status)
            visit.refuse()

    def _resume(self, visit: _Visit, call: Call) -> None:
        self._deadlines.forget(call)
        self._through.put(visit)

    def _finish(self) -> None:
        visit: _Visit | None = None
        try:
            while (visit := self._through.get()) is not None:
                self.go_on(visit)
        finally:
            if visit is not None:
                self._on_death()


class _Visit:
    """One call at the desk. For gRPC it is the future of a thread's work: it asks to be told of the end, no more."""

    __slots__ = (
        "_behaviour",
        "_desk",
        "_ended",
        "_event",
        "_is_over",
        "_keep",
        "_serialise",
        "_state",
        "coroutine",
        "works",
    )

    def __init__(
        self,
        desk: Desk,
        event: Any,  # noqa: ANN401
        state: Any,  # noqa: ANN401
        behaviour: Awaitable,
        serialise: Callable[[object], bytes],
    ) -> None:
        self._desk, self._event, self._state = desk, event, state
        self._behaviour, self._serialise = behaviour, serialise
        self._keep = _private._receive_message(state, event.call, None)
        self._ended: Callable[[object], None] | None = None
        self._is_over = False
        self.coroutine: Coroutine[Call, None, object]
        self.works: list[Work] = []

    def add_done_callback(self, ended: Callable[[object], None]) -> None:
        """Called at once by gRPC, in its polling thread, before any message can be there."""
        self._ended = ended

    def received(self, event: Any) -> Any:  # noqa: ANN401
        """The message is there, or never comes; called in gRPC's polling thread, which must not see an error."""
        following = self._keep(event)
        try:
            with self._state.condition:
                data, self._state.request = self._state.request, None
            if data is None:
                self._turn_away()
            else:
                context = _private._Context(self._event, self._state, None)
                self.coroutine = self._behaviour.begin(data, context)
                self._desk.take(self, len(data))
        except Exception:  # noqa: BLE001 (the poller lives on, whatever it is)
            self.refuse()
        return following

    def answer(self, message: object) -> None:
        """Send the answer."""
        try:
            data = _private._serialize_response(self._event, self._state, message, self._serialise)
            if data is not None:
                _private._status(self._event, self._state, data)
        except Exception:  # noqa: BLE001 (it concerns this call alone)
            _log.exception("an answer could not be sent")
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
            _log.exception("a status could not be sent")
        self._end()

    def _turn_away(self) -> None:
        """The client has ended its side without a message, or has gone."""
        with self._state.condition:
            if self._state.client is _private._CLOSED:
                details = b"the method takes one request, none came"
                _private._abort(self._state, self._event.call, _cygrpc.StatusCode.unimplemented, details)
        self._end()

    def _end(self) -> None:
        if self._ended and not self._is_over:
            self._is_over = True
            self._ended(self)
