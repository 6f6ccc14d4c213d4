"""What the methods of one server share."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass

from server.front.arrivals import Arrivals
from server.front.exchange import Exchanges
from server.front.limiter import ConcurrencyLimiter
from server.front.outcomes import Outcomes
from server.front.timers import FIRST_MESSAGE_TIMEOUT_S, Timers
from server.front.unsent import Unsent
from server.sizes import MessageLimits

NEXT_MESSAGE_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class Limiters:
    """What bounds the calls that run at once. Those of health are never taken by other calls.

    Args:
        calls: that a worker answers.
        control: of other methods, each of which holds a thread.
        streams: each holds two threads as long as it is open.
        probes: of health; they block nothing, so a saturated server still says that it is alive.
        watches: of health, each of which holds a thread.
    """

    calls: ConcurrencyLimiter
    control: ConcurrencyLimiter
    streams: ConcurrencyLimiter
    probes: ConcurrencyLimiter
    watches: ConcurrencyLimiter


@dataclass(frozen=True, slots=True)
class Front:
    """What the methods of one server share.

    Args:
        exchanges: send messages to the worker.
        timers: end calls whose request does not come.
        outcomes: count and log.
        limiters: bound what runs.
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
    arrivals: Arrivals
    probe_arrivals: Arrivals
    unsent: Unsent
    sizes: MessageLimits
    threads: Executor
    readers: Executor
    first_message_timeout_s: float = FIRST_MESSAGE_TIMEOUT_S
    next_message_timeout_s: float = NEXT_MESSAGE_TIMEOUT_S
