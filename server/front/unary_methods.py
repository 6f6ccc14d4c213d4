"""Unary methods, and what every method has in common: waiting for the request, a slot, a status, counting.

No call holds a thread while it waits for its request.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import grpc
from google.protobuf.message import Message

from swiftrec.server.errors import RequestMissing, SwiftrecError
from swiftrec.server.front.calls import Call
from swiftrec.server.front.front import Front
from swiftrec.server.front.limits import Arrivals, ConcurrencyLimiter
from swiftrec.server.front.outcomes import REQUEST_ID, AbortStatus, CallRecord, client_code, request_id
from swiftrec.server.front.waits import Exchange, Timer
from swiftrec.server.messages import decode
from swiftrec.server.ticket import Reply

UnaryHandler = Callable[[Any, grpc.ServicerContext], Any]
_NO_REQUEST = "the method takes one request, but none was sent"
_REQUEST_TIMEOUT = "the request did not arrive in time"


class CallState:
    """What a method stores with a call.

    Attributes:
        record: for the metrics and the log.
        timer: ends the wait for the request.
        slot: acquired from the limiter.
        exchange: the message that was sent to the worker.
        unsent: number of the response that the client has not read.
    """

    __slots__ = ("exchange", "is_over", "record", "slot", "timer", "unsent")

    def __init__(self, record: CallRecord) -> None:
        self.record, self.is_over = record, False
        self.timer: Timer | None = None
        self.slot: int | None = None
        self.exchange: Exchange | None = None
        self.unsent = 0

    def end_wait(self) -> bool:
        """Stop waiting for the request; False if the call was not waiting."""
        return self.timer is not None and self.timer.cancel()


class MethodBase:
    """Base of all methods.

    Args:
        front: shared by the methods.
        name: full name.
        limiter: limits the calls whose request has arrived.
        arrivals: limits the other calls.
    """

    def __init__(self, front: Front, name: str, limiter: ConcurrencyLimiter, arrivals: Arrivals) -> None:
        self._front, self.name, self.limiter, self._arrivals = front, name, limiter, arrivals

    def on_call(self, call: Call) -> None:
        """Wait for the request, with a timeout."""
        state = self._track(call)
        if not self._arrivals.admit(partial(self.abort, call)):
            return
        due = call.started + self._front.first_message_timeout_s
        state.timer = self._front.timers.schedule(due, partial(self._on_timeout, call, state))
        self._arrivals.add(call, self)

    def on_message(self, call: Call, message: bytes) -> None:
        """The request has arrived: acquire a slot and handle it."""
        self._arrivals.remove(call)
        if call.method_state.end_wait():  # otherwise the request is too late
            self._run(call, message)

    def on_no_message(self, call: Call) -> None:
        """No request will arrive: the client has half-closed, cancelled or disconnected."""
        self._arrivals.remove(call)
        if call.method_state.end_wait() and call.has_half_closed:
            self._end_without_message(call, call.method_state, grpc.StatusCode.UNIMPLEMENTED, _NO_REQUEST)

    def on_end(self, call: Call) -> None:
        """Release the slot and count the code that the client saw."""
        self._arrivals.remove(call)
        state: CallState = call.method_state or self._track(call)  # a call that failed on arrival has no state
        self._front.open_calls.remove(call)
        call.method_state = None  # break the cycle: gRPC keeps a stream open while its call exists
        state.end_wait()
        state.is_over = True
        exchange, state.exchange = state.exchange, None  # break this cycle, too
        if exchange:
            exchange.cancel()
        self._front.unsent.remove(state.unsent)
        if state.slot is not None:
            self.limiter.release(state.slot)
        record = state.record
        if call.claim():
            record.code = "INTERNAL"  # nothing was sent, unless the client ended the call
        if call.is_cancelled:  # a copy: another thread may be responding
            code = client_code(call.started, call.time_left_s)
            record = dataclasses.replace(record, code=code, error=None)
        self._front.outcomes.record(record)

    def abort(self, call: Call, error: Exception) -> None:
        """End a call that has no response with the status of an error, from any thread."""
        state: CallState | None = call.method_state
        if state is not None and call.claim():
            state.end_wait()
            self._send_status(call, state, state.record.abort_status(error))

    def _run(self, call: Call, message: bytes | None) -> None:
        """Acquire a slot and handle the call."""
        state: CallState = call.method_state
        try:
            self._front.sizes.check_request(len(message or b""))
            state.slot = self.limiter.acquire()
            self._front.unsent.check()
            self._handle(call, state, message)
        except Exception as error:  # noqa: BLE001 (mapped to a status, whatever it is)
            self.abort(call, error)

    def _handle(self, call: Call, state: CallState, message: bytes | None) -> None:
        raise NotImplementedError

    def _on_timeout(self, call: Call, state: CallState) -> None:
        self._end_without_message(call, state, grpc.StatusCode.DEADLINE_EXCEEDED, _REQUEST_TIMEOUT)

    def _end_without_message(self, call: Call, state: CallState, code: grpc.StatusCode, details: str) -> None:
        if call.claim():
            state.record.code, state.record.error = code.name, RequestMissing()
            self._send_status(call, state, AbortStatus(code, details, ((REQUEST_ID, state.record.identity),)))

    def _respond(self, call: Call, state: CallState, response: bytes | None) -> None:
        """End the call with OK, unless it has ended already."""
        if call.claim():
            state.record.code = call.code
            self._track_response(call, state, len(response or b""))
            call.respond(response)

    def _send_status(self, call: Call, state: CallState, refusal: AbortStatus) -> None:
        self._track_response(call, state, 0)
        call.abort(refusal.code, refusal.details, refusal.trailing_metadata)

    def _track_response(self, call: Call, state: CallState, size: int) -> None:
        """Count the response until the client has read it."""
        state.unsent = self._front.unsent.add(size, call.abort_transport)
        if state.is_over:  # the client has disconnected meanwhile
            self._front.unsent.remove(state.unsent)

    def _track(self, call: Call) -> CallState:
        metadata = call.metadata
        record = CallRecord(self.name, call.started, metadata, request_id(metadata))
        call.method_state = state = CallState(record)
        call.set_trailing_metadata(((REQUEST_ID, record.identity),))
        self._front.open_calls.add(call, self)
        return state


class AbortingMethod(MethodBase):
    """Aborts every call on arrival.

    Args:
        front: shared by the methods.
        name: used to count the calls.
        error: the reason.
    """

    def __init__(self, front: Front, name: str, error: SwiftrecError) -> None:
        super().__init__(front, name, front.limiters.control, front.arrivals)
        self._error = error

    def on_call(self, call: Call) -> None:
        """Abort the call."""
        self._track(call)
        self.abort(call, self._error)


class WorkerMethod(MethodBase):
    """A unary method that the worker handles."""

    def _handle(self, call: Call, state: CallState, message: bytes | None) -> None:
        on_reply = partial(self._on_reply, call, state)
        exchanges, spans = self._front.exchanges, state.record.spans
        state.exchange = exchanges.send(self.name, message or b"", call.time_left_s, on_reply, spans)

    def _on_reply(self, call: Call, state: CallState, reply: Reply) -> None:
        if isinstance(reply, bytes):
            self._respond(call, state, reply)
        else:
            self.abort(call, reply)


class LocalMethod(MethodBase):
    """A unary method that is handled here: probes, and control of the server."""

    def __init__(
        self,
        front: Front,
        name: str,
        limiter: ConcurrencyLimiter,
        arrivals: Arrivals,
        kind: type[Message],
        handler: UnaryHandler,
        *,
        may_block: bool,
    ) -> None:
        super().__init__(front, name, limiter, arrivals)
        self._kind, self._handler, self._may_block = kind, handler, may_block

    def _handle(self, call: Call, state: CallState, message: bytes | None) -> None:
        if self._may_block:
            self._front.threads.submit(self._call_handler, call, state, message or b"")
        else:
            self._call_handler(call, state, message or b"")

    def _call_handler(self, call: Call, state: CallState, message: bytes) -> None:
        try:
            response = self._handler(decode(self._kind, message), call.context())
            data = self._front.sizes.encode(response)
        except Exception as error:  # noqa: BLE001 (mapped to a status, whatever it is)
            self.abort(call, error)
        else:
            self._respond(call, state, data)
