"""What every method has around its answer: the wait for the request, the place, the status, the count; and unary ones.

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
from swiftrec.server.front.outcomes import REQUEST_ID, CallRecord, Refusal, client_code, request_id
from swiftrec.server.front.waits import Exchange, Timer
from swiftrec.server.messages import decode
from swiftrec.server.ticket import Reply

Behaviour = Callable[[Any, grpc.ServicerContext], Any]
_NO_REQUEST = "the method takes one request, none came"
_SILENT = "the request did not come in time"


class Note:
    """What a method keeps of a call.

    Attributes:
        record: how the call ends.
        timer: ends the wait for the request.
        place: of the limiter.
        exchange: the message that a worker has.
        unsent: number of the answer that the client has not taken.
    """

    __slots__ = ("exchange", "is_over", "place", "record", "timer", "unsent")

    def __init__(self, record: CallRecord) -> None:
        self.record, self.is_over = record, False
        self.timer: Timer | None = None
        self.place: int | None = None
        self.exchange: Exchange | None = None
        self.unsent = 0

    def end_wait(self) -> bool:
        """Whether the call waited for its request until now."""
        return self.timer is not None and self.timer.cancel()


class FramedMethod:
    """What every method has around its answer.

    Args:
        front: what methods share.
        name: full name.
        limiter: bounds the calls that have their request.
        arrivals: bound those that do not.
    """

    def __init__(self, front: Front, name: str, limiter: ConcurrencyLimiter, arrivals: Arrivals) -> None:
        self._front, self.name, self.limiter, self._arrivals = front, name, limiter, arrivals

    def begin(self, call: Call) -> None:
        """Wait for the request, for a time."""
        note = self._note(call)
        if not self._arrivals.admit(partial(self.refuse, call)):
            return
        due = call.started + self._front.first_message_timeout_s
        note.timer = self._front.timers.schedule(due, partial(self._silent, call, note))
        self._arrivals.enter(call, self)

    def receive(self, call: Call, message: bytes) -> None:
        """The request has arrived: take a place and answer it."""
        self._arrivals.leave(call)
        if call.note.end_wait():  # otherwise the request comes too late
            self._take(call, message)

    def missed(self, call: Call) -> None:
        """The client has ended its side, or the call, without a request."""
        self._arrivals.leave(call)
        if call.note.end_wait() and call.has_half_closed:
            self._end_silent(call, call.note, grpc.StatusCode.UNIMPLEMENTED, _NO_REQUEST)

    def over(self, call: Call) -> None:
        """Give back the place and count the code that the client saw."""
        self._arrivals.leave(call)
        note: Note = call.note or self._note(call)  # nothing was noted of a call that could not be begun
        self._front.open_calls.remove(call)
        call.note = None  # they hold each other, and gRPC keeps a stream open as long as its call is there
        note.end_wait()
        note.is_over = True
        exchange, note.exchange = note.exchange, None  # these two hold each other as well
        if exchange:
            exchange.cancel()
        self._front.unsent.remove(note.unsent)
        if note.place is not None:
            self.limiter.release(note.place)
        record = note.record
        if call.claim():
            record.code = "INTERNAL"  # unless the client has ended it: nothing was sent
        if call.is_cancelled:  # a copy: another thread may be trying to answer
            code = client_code(call.started, call.time_left_s)
            record = dataclasses.replace(record, code=code, error=None)
        self._front.outcomes.end(record)

    def refuse(self, call: Call, error: Exception) -> None:
        """End a call that has no answer with the status of an error, by any thread."""
        note: Note | None = call.note
        if note is not None and call.claim():
            note.end_wait()
            self._send_status(call, note, note.record.refuse(error))

    def _take(self, call: Call, message: bytes | None) -> None:
        """Take a place, and answer."""
        note: Note = call.note
        try:
            self._front.sizes.check_request(len(message or b""))
            note.place = self.limiter.acquire()
            self._front.unsent.check()
            self._answer(call, note, message)
        except Exception as error:  # noqa: BLE001 (mapped to a status, whatever it is)
            self.refuse(call, error)

    def _answer(self, call: Call, note: Note, message: bytes | None) -> None:
        raise NotImplementedError

    def _silent(self, call: Call, note: Note) -> None:
        self._end_silent(call, note, grpc.StatusCode.DEADLINE_EXCEEDED, _SILENT)

    def _end_silent(self, call: Call, note: Note, code: grpc.StatusCode, details: str) -> None:
        if call.claim():
            note.record.code, note.record.error = code.name, RequestMissing()
            self._send_status(call, note, Refusal(code, details, ((REQUEST_ID, note.record.identity),)))

    def _respond(self, call: Call, note: Note, response: bytes | None) -> None:
        """End a call well, unless it has been refused."""
        if call.claim():
            note.record.code = call.code
            self._hand_over(call, note, len(response or b""))
            call.respond(response)

    def _send_status(self, call: Call, note: Note, refusal: Refusal) -> None:
        self._hand_over(call, note, 0)
        call.refuse(refusal.code, refusal.details, refusal.trailing_metadata)

    def _hand_over(self, call: Call, note: Note, size: int) -> None:
        """From now on the answer waits for the client."""
        note.unsent = self._front.unsent.add(size, call.abort_transport)
        if note.is_over:  # the client has gone meanwhile
            self._front.unsent.remove(note.unsent)

    def _note(self, call: Call) -> Note:
        metadata = call.metadata
        record = CallRecord(self.name, call.started, metadata, request_id(metadata))
        call.note = note = Note(record)
        call.set_trailing_metadata(((REQUEST_ID, record.identity),))
        self._front.open_calls.add(call, self)
        return note


class RefusedMethod(FramedMethod):
    """Refuses every call when it arrives.

    Args:
        front: what methods share.
        name: by which calls are counted.
        error: why they are refused.
    """

    def __init__(self, front: Front, name: str, error: SwiftrecError) -> None:
        super().__init__(front, name, front.limiters.control, front.arrivals)
        self._error = error

    def begin(self, call: Call) -> None:
        """Refuse the call."""
        self._note(call)
        self.refuse(call, self._error)


class WorkerMethod(FramedMethod):
    """A unary method that the worker answers."""

    def _answer(self, call: Call, note: Note, message: bytes | None) -> None:
        on_reply = partial(self._reply, call, note)
        exchanges, works = self._front.exchanges, note.record.works
        note.exchange = exchanges.send(self.name, message or b"", call.time_left_s, on_reply, works)

    def _reply(self, call: Call, note: Note, reply: Reply) -> None:
        if isinstance(reply, bytes):
            self._respond(call, note, reply)
        else:
            self.refuse(call, reply)


class LocalMethod(FramedMethod):
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

    def _answer(self, call: Call, note: Note, message: bytes | None) -> None:
        if self._may_block:
            self._front.threads.submit(self._work, call, note, message or b"")
        else:
            self._work(call, note, message or b"")

    def _work(self, call: Call, note: Note, message: bytes) -> None:
        try:
            response = self._behaviour(decode(self._kind, message), call.context())
            data = self._front.sizes.encode(response)
        except Exception as error:  # noqa: BLE001 (mapped to a status, whatever it is)
            self.refuse(call, error)
        else:
            self._respond(call, note, data)
