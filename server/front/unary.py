"""Unary calls: the wait for the request, the place, the answer, the count. None holds a thread while it waits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import grpc
from google.protobuf.message import Message

from server.decode import decode
from server.errors import Overloaded, RequestMissing
from server.front.calls import Call
from server.front.front import Front
from server.front.limits import Arrivals, ConcurrencyLimiter
from server.front.outcomes import REQUEST_ID, CallRecord, Refusal, client_code, request_id
from server.front.waits import Exchange, Timer
from server.ticket import Reply

Behaviour = Callable[[Any, grpc.ServicerContext], Any]
_NO_REQUEST = "the method takes one request, none came"
_SILENT = "the request did not come in time"
_CROWDED = "Exceeds maximum queue size: too many calls wait for their request"
_RETRY_S = 1.0


class _Call:
    """What a method keeps of a unary call.

    Attributes:
        record: how the call ends; None until something is known.
        place: of the limiter.
        exchange: the message that a worker has.
        unsent: number of the answer that the client has not taken.
    """

    __slots__ = ("exchange", "is_over", "place", "record", "timer", "unsent")

    def __init__(self, timer: Timer | None) -> None:
        self.timer, self.is_over = timer, False
        self.place: int | None = None
        self.record: CallRecord | None = None
        self.exchange: Exchange | None = None
        self.unsent = 0

    def claim(self) -> bool:
        """Whether the caller is the first to decide what happens to a call that has no request yet."""
        return self.timer is not None and self.timer.cancel()


class UnaryMethod:
    """What all unary methods have around their answer."""

    def __init__(self, front: Front, name: str, limiter: ConcurrencyLimiter, arrivals: Arrivals) -> None:
        self._front, self.name, self.limiter, self._arrivals = front, name, limiter, arrivals

    def begin(self, call: Call) -> None:
        """Wait for the request, for a time."""
        call.note = _Call(None)
        if not self._arrivals.admit(partial(self._refuse, call, call.note)):
            return
        due = call.started + self._front.first_message_timeout_s
        call.note.timer = self._front.timers.schedule(due, partial(self._silent, call, call.note))
        crowded = self._arrivals.enter(call)
        if crowded is not None and crowded.note.claim():
            self._refuse(crowded, crowded.note, Overloaded(_RETRY_S, _CROWDED))

    def receive(self, call: Call, message: bytes) -> None:
        """The request has arrived: take a place and answer it."""
        self._arrivals.leave(call)
        note: _Call = call.note
        if not note.claim():  # the request comes too late
            return
        record = self._record(call, note)
        call.set_trailing_metadata(((REQUEST_ID, record.identity),))
        try:
            self._front.sizes.check_request(len(message))
            note.place = self.limiter.acquire()
            self._front.unsent.check()
            self._answer(call, note, record, message)
        except Exception as error:  # noqa: BLE001 (mapped to a status, whatever it is)
            self._refuse(call, note, error)

    def missed(self, call: Call) -> None:
        """The client has ended its side, or the call, without a request."""
        self._arrivals.leave(call)
        if call.note.claim() and call.has_half_closed:
            self._end_silent(call, call.note, grpc.StatusCode.UNIMPLEMENTED, _NO_REQUEST)

    def over(self, call: Call) -> None:
        """Give back the place and count the code that the client saw."""
        self._arrivals.leave(call)
        note: _Call = call.note or _Call(None)  # nothing was noted of a call that could not be begun
        call.note = None  # they hold each other, and gRPC keeps a stream open as long as its call is there
        note.claim()
        note.is_over = True
        exchange, note.exchange = note.exchange, None  # these two hold each other as well
        if exchange:
            exchange.cancel()
        self._front.unsent.remove(note.unsent)
        if note.place is not None:
            self.limiter.release(note.place)
        record = note.record
        if record is None:
            record = self._record(call, note)
            record.code = "INTERNAL"  # unless the client has ended it: nothing was sent
        if call.is_cancelled:  # a copy: another thread may still try to answer
            code = client_code(call.started, call.time_left_s)
            record = dataclasses.replace(record, code=code, error=None)
        self._front.outcomes.end(record)

    def _answer(self, call: Call, note: _Call, record: CallRecord, message: bytes) -> None:
        raise NotImplementedError

    def _silent(self, call: Call, note: _Call) -> None:
        self._end_silent(call, note, grpc.StatusCode.DEADLINE_EXCEEDED, _SILENT)

    def _end_silent(self, call: Call, note: _Call, code: grpc.StatusCode, details: str) -> None:
        record = self._record(call, note)
        record.code, record.error = code.name, RequestMissing()
        self._send_status(call, note, Refusal(code, details, ((REQUEST_ID, record.identity),)))

    def _refuse(self, call: Call, note: _Call, error: Exception) -> None:
        record = note.record or self._record(call, note)
        self._send_status(call, note, record.refuse(error))

    def _respond(self, call: Call, note: _Call, response: bytes) -> None:
        self._hand_over(call, note, len(response))
        call.respond(response)

    def _send_status(self, call: Call, note: _Call, refusal: Refusal) -> None:
        self._hand_over(call, note, 0)
        call.refuse(refusal.code, refusal.details, refusal.trailing_metadata)

    def _hand_over(self, call: Call, note: _Call, size: int) -> None:
        """From now on the answer waits for the client."""
        note.unsent = self._front.unsent.add(size, call.abort_transport)
        if note.is_over:  # the client has gone meanwhile
            self._front.unsent.remove(note.unsent)

    def _record(self, call: Call, note: _Call) -> CallRecord:
        metadata = call.metadata
        note.record = CallRecord(self.name, call.started, metadata, request_id(metadata))
        return note.record


class WorkerMethod(UnaryMethod):
    """A unary method that the worker answers."""

    def _answer(self, call: Call, note: _Call, record: CallRecord, message: bytes) -> None:
        on_reply = partial(self._reply, call, note)
        note.exchange = self._front.exchanges.send(self.name, message, call.time_left_s, on_reply, record.works)

    def _reply(self, call: Call, note: _Call, reply: Reply) -> None:
        if isinstance(reply, bytes):
            self._respond(call, note, reply)
        else:
            self._refuse(call, note, reply)


class LocalMethod(UnaryMethod):
    """A unary method that is answered here: control of the server, and probes."""

    def __init__(
        self,
        front: Front,
        name: str,
        limiter: ConcurrencyLimiter,
        arrivals: Arrivals,
        kind: type[Message],
        behaviour: Behaviour,
        *,
        may_block: bool,
    ) -> None:
        super().__init__(front, name, limiter, arrivals)
        self._kind, self._behaviour, self._may_block = kind, behaviour, may_block

    def _answer(self, call: Call, note: _Call, record: CallRecord, message: bytes) -> None:
        if self._may_block:
            self._front.threads.submit(self._work, call, note, record, message)
        else:
            self._work(call, note, record, message)

    def _work(self, call: Call, note: _Call, record: CallRecord, message: bytes) -> None:
        try:
            response = self._run(message, call.context())
        except Exception as error:  # noqa: BLE001 (mapped to a status, whatever it is)
            self._refuse(call, note, error)
        else:
            record.code = call.code
            self._respond(call, note, response)

    def _run(self, message: bytes, context: grpc.ServicerContext) -> bytes:
        return self._front.sizes.encode(self._behaviour(decode(self._kind, message), context))
