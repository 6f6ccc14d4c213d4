"""Around every method: limits what runs, passes bytes to the worker, maps errors to a status, counts and logs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import grpc
from google.protobuf.message import Message

from server.front.framed import Stream, first_message, framed_stream, patience, replies
from server.front.front import Front
from server.front.grpc_adapter import Dispatched, UnaryDispatcher
from server.front.limits import Arrivals, ConcurrencyLimiter
from server.front.methods import Handler
from server.front.outcomes import CallRecord
from server.front.streams import PunctualMessages
from server.front.unary import Behaviour, LocalMethod, UnaryMethod, WorkerMethod


class Middleware:
    """Wraps every method when it is registered, whichever of gRPC's four shapes it has.

    Messages of methods whose request type is not known (reflection, health's Watch) are left to gRPC.

    Args:
        front: what methods share.
        requests: full method name -> request type.
        worker_methods: full names of the methods that the worker answers.
        probes: full names of those that never block, and of health's stream.
    """

    def __init__(
        self,
        front: Front,
        requests: Mapping[str, type[Message]],
        worker_methods: frozenset[str],
        probes: frozenset[str],
    ) -> None:
        self._front, self._requests, self._worker_methods = front, requests, worker_methods
        self._probes, self._dispatcher = probes, UnaryDispatcher()

    def wrap(self, name: str, handler: Handler) -> Handler:
        """The method with everything around it."""
        limiters = self._front.limiters
        if handler.unary_unary is not None and name in self._requests:
            method = self._unary(name, handler.unary_unary)
            return grpc.unary_unary_rpc_method_handler(Dispatched(method, self._dispatcher))
        if handler.stream_stream is not None and name in self._worker_methods:
            return self._framed(name, limiters.streams, partial(replies, self._front, name))
        limiter = limiters.watches if name in self._probes else limiters.streams
        return self._framed(name, limiter, self._local_stream(handler), handler)

    def _framed(
        self, name: str, limiter: ConcurrencyLimiter, behaviour: Stream, handler: Handler | None = None
    ) -> Handler:
        """A method that holds a thread; without a `handler`, whose messages are bytes."""
        return grpc.stream_stream_rpc_method_handler(
            partial(framed_stream, self._front, name, limiter, self._arrivals(name), behaviour),
            handler.request_deserializer if handler else None,
            handler.response_serializer if handler else None,
        )

    def _arrivals(self, name: str) -> Arrivals:
        return self._front.probe_arrivals if name in self._probes else self._front.arrivals

    def _unary(self, name: str, behaviour: Behaviour) -> UnaryMethod:
        limiters, arrivals = self._front.limiters, self._arrivals(name)
        if name in self._worker_methods:
            return WorkerMethod(self._front, name, limiters.calls, arrivals)
        is_probe = name in self._probes
        limiter = limiters.probes if is_probe else limiters.control
        kind = self._requests[name]
        return LocalMethod(self._front, name, limiter, arrivals, kind, behaviour, may_block=not is_probe)

    def _local_stream(self, handler: Handler) -> Stream:
        """A method of any shape that is answered here, as one that takes and gives streams.

        gRPC itself would wait without end for the request of a method that takes one.
        """
        front = self._front

        def answer(messages: Iterator[Any], context: grpc.ServicerContext, _record: CallRecord) -> Iterator[Any]:
            if handler.unary_stream is not None:
                yield from handler.unary_stream(first_message(front, messages, context), context)
            elif handler.unary_unary is not None:
                yield handler.unary_unary(first_message(front, messages, context), context)
            else:
                punctual = PunctualMessages(messages, patience(front), context.cancel)
                if handler.stream_unary is not None:
                    yield handler.stream_unary(punctual, context)
                elif handler.stream_stream is not None:
                    yield from handler.stream_stream(punctual, context)

        return answer
