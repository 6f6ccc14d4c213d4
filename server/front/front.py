"""What the methods of one server share."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass

from swiftrec.server.front.limits import Arrivals, Limiters, OpenCalls, Unsent
from swiftrec.server.front.outcomes import Outcomes
from swiftrec.server.front.waits import FIRST_MESSAGE_TIMEOUT_S, Exchanges, Timers
from swiftrec.server.messages import MessageLimits

NEXT_MESSAGE_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class Front:
    """What the methods of one server share.

    Args:
        exchanges: send messages to the worker.
        timers: end calls whose request does not come.
        outcomes: count and log.
        limiters: bound what runs.
        open_calls: what has not ended.
        arrivals: bound the calls whose request has not come, and refuse calls when the server stops.
        probe_arrivals: the same for probes, which are answered while the server stops.
        unsent: bounds the answers that clients have not taken.
        sizes: bound requests and responses.
        threads: run what may block.
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
    unsent: Unsent
    sizes: MessageLimits
    threads: Executor
    readers: Executor
    first_message_timeout_s: float = FIRST_MESSAGE_TIMEOUT_S
    next_message_timeout_s: float = NEXT_MESSAGE_TIMEOUT_S
