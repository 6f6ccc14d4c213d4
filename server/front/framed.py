"""Calls that hold a thread: streams, and calls that are refused before they reach their method."""

from __future__ import annotations

import dataclasses
import queue
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from server.errors import Cancelled, RequestMissing, SwiftrecError
from server.front.front import Front
from server.front.grpc_adapter import was_cancelled
from server.front.limits import Arrivals, ConcurrencyLimiter
from server.front.outcomes import REQUEST_ID, CallRecord, Outcomes, client_code, request_id
from server.front.streams import Patience, PunctualMessages, map_ordered
from server.front.waits import Exchange
from server.ticket import Reply

Stream = Callable[[Iterator[Any], grpc.ServicerContext, CallRecord], Iterator[Any]]


def framed_stream(
    front: Front,
    name: str,
    limiter: ConcurrencyLimiter,
    arrivals: Arrivals,
    behaviour: Stream,
    messages: Iterator[Any],
    context: grpc.ServicerContext,
) -> Iterator[Any]:
    """The responses of a stream: limited, with a status for errors, counted."""
    record = begin(front.outcomes, name, context)
    try:
        _admit(arrivals)
        place = limiter.acquire()
        try:
            yield from _sent(front, behaviour(messages, context, record), context)
        finally:
            limiter.release(place)
    except grpc.RpcError:  # what reading the next message raises when the client has gone
        context.abort_with_status(record.refuse(Cancelled("the client has gone")))
    except Exception as error:  # noqa: BLE001 (mapped to a status, whatever it is)
        context.abort_with_status(record.refuse(error))


def replies(
    front: Front, name: str, messages: Iterator[bytes], context: grpc.ServicerContext, record: CallRecord
) -> Iterator[bytes]:
    """The worker's replies to the messages of a stream, in order."""

    def send(message: bytes, on_reply: Callable[[Reply], None]) -> Exchange:
        front.sizes.check_request(len(message))
        front.unsent.check()
        return front.exchanges.send(name, message, context.time_remaining(), on_reply, record.works)

    return map_ordered(messages, send, front.readers, patience(front), context.add_callback, front.unsent)


def patience(front: Front) -> Patience:
    """How long the streams of this server may be silent."""
    return Patience(front.timers, front.first_message_timeout_s, front.next_message_timeout_s)


def first_message(front: Front, messages: Iterator[Any], context: grpc.ServicerContext) -> Any:  # noqa: ANN401
    """The request of a call that takes one.

    Raises:
        RequestMissing: the client has ended its side without one.
        Cancelled: the client has cancelled, or the request did not come in time, which cancels the call.
    """
    try:
        return next(PunctualMessages(messages, patience(front), context.cancel))
    except StopIteration:
        raise RequestMissing("the request is missing") from None
    except grpc.RpcError:  # what gRPC raises of a call that has ended
        raise Cancelled("the call was cancelled before its request came") from None


def begin(outcomes: Outcomes, name: str, context: grpc.ServicerContext) -> CallRecord:
    """The record of a call that has come, which is counted and logged when the call is over for gRPC."""
    metadata = context.invocation_metadata() or ()
    record = CallRecord(name, time.monotonic(), metadata, request_id(metadata))
    context.set_trailing_metadata(((REQUEST_ID, record.identity),))

    def over() -> None:
        ended = record
        if was_cancelled(context):  # a copy: another thread may still try to answer
            code = client_code(record.started, context.time_remaining())
            ended = dataclasses.replace(record, code=code, error=None)
        outcomes.end(ended)

    if not context.add_callback(over):
        over()
    return record


def refuse_call(outcomes: Outcomes, name: str, error: SwiftrecError, context: grpc.ServicerContext) -> None:
    """End a call before it reaches its method; never returns."""
    context.abort_with_status(begin(outcomes, name, context).refuse(error))


def _admit(arrivals: Arrivals) -> None:
    """Note that a call has come.

    Raises:
        ShuttingDown: it is too late for it.
    """
    late: queue.SimpleQueue[SwiftrecError] = queue.SimpleQueue()
    if not arrivals.admit(late.put):
        raise late.get()


def _sent(front: Front, responses: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
    """The responses, each of which the client must take in time."""
    for response in responses:
        number = front.unsent.add(len(response) if isinstance(response, bytes) else 0, context.cancel)
        try:
            yield response
        finally:
            front.unsent.remove(number)
