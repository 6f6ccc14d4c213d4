"""A gRPC server with one method through the middleware, over a worker that the test writes."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc

from swiftrec.server.batching.admission import Load
from swiftrec.server.errors import SwiftrecError
from swiftrec.server.front.endpoint import open_server, start
from swiftrec.server.front.front import Front
from swiftrec.server.front.limits import Arrivals, ConcurrencyLimiter, Limiters, OpenCalls, UnsentResponses
from swiftrec.server.front.methods import Handler, MethodTable
from swiftrec.server.front.middleware import MethodKinds, Middleware
from swiftrec.server.front.outcomes import AccessLog, Outcomes
from swiftrec.server.front.waits import Exchanges, Timers
from swiftrec.server.messages import MessageLimits
from swiftrec.server.pb.swiftrec.v1.recommender_pb2 import RecommendRequest
from swiftrec.server.telemetry.metrics import Metrics
from swiftrec.server.ticket import Reply, Ticket
from tests.until import LONG, until

PATH, STREAM = "/test.Service/Ask", "/test.Service/Stream"
Answer = Callable[[Ticket], None]


def echo(ticket: Ticket) -> None:
    """Answer at once, in the thread that sends."""
    ticket.done(ticket.message)


class ManualLink:
    """A worker: keeps what it gets, and does with it what the test says."""

    def __init__(self, answer: Answer = lambda _ticket: None) -> None:
        self.answer = answer
        self.tickets: queue.Queue[Ticket] = queue.Queue()
        self.cancelled: queue.Queue[Ticket] = queue.Queue()

    @property
    def load(self) -> Load:
        """Nothing waits."""
        return Load(0, 0, 0.0)

    def send(self, ticket: Ticket) -> None:
        """Keep it and answer it."""
        self.tickets.put(ticket)
        self.answer(ticket)

    def cancel(self, ticket: Ticket) -> None:
        """Keep it."""
        ticket.is_cancelled = True
        self.cancelled.put(ticket)

    def next(self) -> Ticket:
        """The next call that comes."""
        return self.tickets.get(timeout=LONG)


@dataclass(frozen=True, slots=True)
class Running:
    """A running server, its parts and a client."""

    front: Front
    link: ManualLink
    metrics: Metrics
    channel: grpc.Channel
    port: int

    @property
    def ask(self) -> grpc.UnaryUnaryMultiCallable[bytes, bytes]:
        """The unary method."""
        return self.channel.unary_unary(PATH, None, None)

    def silent(self, method: str = PATH, **named: Any) -> tuple[Any, queue.Queue[bytes | None]]:  # noqa: ANN401
        """A call without a request, and the queue to which its messages may be put; None ends the client's side."""
        messages: queue.Queue[bytes | None] = queue.Queue()
        return self.channel.stream_unary(method, None, None).future(iter(messages.get, None), **named), messages

    def until_counted(self, code: str, number: int = 1, method: str = "Ask") -> None:
        """Wait until `number` calls were counted with this code."""
        until(lambda: self.metrics.calls.count(method, code) == number, lambda: self.counts(method))

    def counts(self, method: str = "Ask") -> dict[str, int]:
        """How many calls were counted, by code."""
        actual = {code.name: self.metrics.calls.count(method, code.name) for code in grpc.StatusCode}
        return {name: number for name, number in actual.items() if number}


def write_error(_ticket: Ticket, error: SwiftrecError) -> Reply:
    """An error ends its call with a status."""
    return error


@contextmanager
def front_of(link: ManualLink, metrics: Metrics, **given: Any) -> Iterator[Front]:  # noqa: ANN401
    """A front over the link; `given` replaces its parts, and the numbers `calls`, `waiting` and `unsent_bytes`."""
    timers = Timers()
    calls, waiting = given.pop("calls", 1_000), given.pop("waiting", 1_000)
    unsent = UnsentResponses(given.pop("unsent_bytes", 1 << 30), given.pop("send_timeout_s", 60.0), timers)
    plain: dict[str, Any] = {
        "exchanges": Exchanges(link, timers, given.pop("write_error", write_error), given.pop("timeout_s", 60.0)),
        "timers": timers,
        "outcomes": Outcomes(metrics, AccessLog()),
        "limiters": Limiters(*(ConcurrencyLimiter(calls) for _ in range(7))),
        "open_calls": OpenCalls(),
        "arrivals": Arrivals(waiting),
        "probe_arrivals": Arrivals(waiting),
        "unsent": unsent,
        "sizes": MessageLimits(),
        "threads": ThreadPoolExecutor(16),
        "readers": ThreadPoolExecutor(16),
    }
    timers.start()
    yield Front(**plain | given)
    timers.stop()


@contextmanager
def serving(
    answer: Answer = lambda _ticket: None,
    handler: Handler | None = None,
    **given: Any,  # noqa: ANN401
) -> Iterator[Running]:
    """A server whose worker answers both methods so; or with `handler`, a method that the worker does not answer."""
    metrics, link = Metrics(), ManualLink(answer)
    with front_of(link, metrics, **given) as front:
        names = frozenset() if handler else frozenset({PATH, STREAM})
        requests = {} if handler and handler.response_streaming else {PATH: RecommendRequest}
        middleware = Middleware(front, requests, MethodKinds(names))
        methods = MethodTable(middleware.wrap)
        plain = {
            "Ask": grpc.unary_unary_rpc_method_handler(lambda *_: b""),
            "Stream": grpc.stream_stream_rpc_method_handler(lambda *_: iter(())),
        }
        methods.add_registered_method_handlers("test.Service", {"Ask": handler} if handler else plain)
        assert isinstance(front.threads, ThreadPoolExecutor)
        server = open_server(front.threads, [])
        methods.install(server)
        port = server.add_insecure_port("127.0.0.1:0")
        start(server)
        with grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)]) as channel:
            yield Running(front, link, metrics, channel, port)
        server.stop(0).wait()
