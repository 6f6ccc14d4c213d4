"""What the methods of a server have in common."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass

from swiftrec.server.front.limits import Arrivals, Limiters, OpenCalls, UnsentResponses
from swiftrec.server.front.outcomes import Outcomes
from swiftrec.server.front.waits import FIRST_MESSAGE_TIMEOUT_S, Exchanges, Timers
from swiftrec.server.messages import MessageLimits

NEXT_MESSAGE_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class Front:
    """Shared by the methods of a server.

    Args:
        exchanges: send messages to the worker.
        timers: end calls whose request does not arrive.
        outcomes: counts and logs finished calls.
        limiters: limit the calls that run.
        open_calls: calls that have not ended.
        arrivals: limits the calls whose request has not arrived, and aborts calls while the server stops.
        probe_arrivals: the same for probes, which are served while the server stops.
        unsent: limits the responses that clients have not read.
        sizes: limits of requests and responses.
        threads: run handlers that may block.
        readers: threads that read the messages of streams.
        first_message_timeout_s: how long a call may wait for its request.
        next_message_timeout_s: how long a stream may wait for another message.
    """

    exchanges: Exchanges
    timers: Timers
    outcomes: Outcomes
    limiters: Limiters
    open_calls: OpenCalls
    arrivals: Arrivals
    probe_arrivals: Arrivals
    unsent: UnsentResponses
    sizes: MessageLimits
    threads: Executor
    readers: Executor
    first_message_timeout_s: float = FIRST_MESSAGE_TIMEOUT_S
    next_message_timeout_s: float = NEXT_MESSAGE_TIMEOUT_S
