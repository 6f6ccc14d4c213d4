"""A server whose models are held, so that calls wait and form known batches."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from numpy.typing import NDArray
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from swiftrec.server.app import App
from swiftrec.server.config import ServerSettings
from swiftrec.server.models.bundle import Bundle
from swiftrec.server.models.session import Session
from swiftrec.server.pb.swiftrec.v1 import encoder_pb2 as pb
from swiftrec.server.pb.swiftrec.v1.encoder_pb2_grpc import EncoderServiceStub
from swiftrec.server.pb.swiftrec.v1.recommender_pb2 import Event, RecommendRequest
from swiftrec.server.pb.swiftrec.v1.recommender_pb2_grpc import RecommenderServiceStub
from tests.until import LONG, until


class Gated:
    """A session that waits at its gate, counts the batches it ran, and fails the next `fails` of them."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._permits, self._is_open = threading.Semaphore(1), True
        self.entered = threading.Semaphore(0)
        self.sizes: list[int] = []
        self.fails = 0

    def open(self) -> None:
        """Let every batch through."""
        self._is_open = True
        self._permits.release()

    def close(self) -> None:
        """Hold the next batch, and release `entered` when it comes."""
        self._is_open = False
        for semaphore in (self._permits, self.entered):
            while semaphore.acquire(blocking=False):
                pass

    def let_one_through(self) -> None:
        """Let the held batch through; the next one is held."""
        self._permits.release()

    def until_held(self) -> None:
        """Until a batch is held."""
        assert self.entered.acquire(timeout=LONG)

    def run(self, feeds: dict[str, NDArray[np.generic]]) -> NDArray[np.float32]:
        rows, is_failing = len(next(iter(feeds.values()))), self.fails > 0
        self.fails -= is_failing
        self.entered.release()
        assert self._permits.acquire(timeout=LONG)
        if self._is_open:
            self._permits.release()
        if is_failing:
            raise RuntimeError("the model fails")
        self.sizes.append(rows)
        return np.ones((rows, self._width), dtype=np.float32)


class Bench:
    """A server over gated sessions and a client of it."""

    def __init__(self, app: App, encoder: Gated, ranker: Gated, channel: grpc.Channel) -> None:
        self.app, self.encoder, self.ranker = app, encoder, ranker
        self.recommender = RecommenderServiceStub(channel)
        self.inference = GRPCInferenceServiceStub(channel)
        self.stub, self.health = EncoderServiceStub(channel), health_pb2_grpc.HealthStub(channel)

    def ask(self, text: str, timeout: float = LONG) -> grpc.Future:  # type: ignore[type-arg]
        return self.stub.Encode.future(pb.EncodeRequest(texts=[text]), timeout=timeout)

    def hold(self) -> grpc.Future:  # type: ignore[type-arg]
        """Hold the worker in a step, so that later calls wait."""
        self.encoder.close()
        first = self.ask("the first")
        self.encoder.until_held()
        return first

    def until_calls(self, calls: int) -> None:
        """Wait until `calls` calls are in flight, queued or in the current step."""
        limiter = self.app.limiters.calls
        until(lambda: limiter.in_use == calls, lambda: f"{limiter.in_use} calls, expected {calls}")

    def until_sent(self, calls: int) -> None:
        """Wait until at least `calls` calls are in the inbox of the worker, which is held.

        A call counts as in flight before it is sent to the worker, and calls may be sent in any order.
        """
        inbox = self.app.link._inbox
        until(lambda: inbox.qsize() >= calls, lambda: f"{inbox.qsize()} calls in the inbox, expected {calls}")

    def admit(self) -> None:
        """End the held step: waiting calls are admitted, and the next step is held."""
        self.encoder.let_one_through()
        self.encoder.until_held()

    def recommend(self, timeout: float = LONG) -> grpc.Future:  # type: ignore[type-arg]
        """Send a request without a text, so that only the ranker runs."""
        return self.recommender.Recommend.future(RecommendRequest(history=[Event(item_id="50")]), timeout=timeout)

    def is_healthy(self) -> bool:
        reply = self.health.Check(health_pb2.HealthCheckRequest(), timeout=LONG)
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


@contextmanager
def bench(bundle: Bundle, **settings: object) -> Iterator[Bench]:
    encoder, ranker = Gated(bundle.manifest.encoder_dimensions), Gated(bundle.manifest.dimensions)

    def open_gated(path: Path, _device: str, _threads: int) -> Session:
        return encoder if path.name.startswith("encoder") else ranker

    plain = {"bundle": bundle.folder, "port": 0, "metrics_port": 0, "sessions": 1, "cache_mb": 0}
    plain["default_timeout_ms"] = int(1e3 * LONG)
    app = App(ServerSettings.model_validate(plain | settings), open_session=open_gated)
    # After a step that was held the next one would be short.
    app.worker._limits = replace(app.worker._limits, step_s=1e9)
    app.start()
    encoder.sizes.clear()
    ranker.sizes.clear()
    with grpc.insecure_channel(f"127.0.0.1:{app.port}", [("grpc.use_local_subchannel_pool", 1)]) as channel:
        try:
            yield Bench(app, encoder, ranker, channel)
        finally:
            encoder.open()
            ranker.open()
            app.stop()


def code(future: grpc.Future) -> grpc.StatusCode:  # type: ignore[type-arg]
    with pytest.raises(grpc.RpcError) as caught:
        future.result(LONG)
    assert isinstance(caught.value, grpc.Call)
    return caught.value.code()


def refused_of(
    calls: list[grpc.Future],  # type: ignore[type-arg]
    number: int,
) -> list[grpc.Future]:  # type: ignore[type-arg]
    """The calls that have ended, once there are `number` of them."""
    until(lambda: sum(call.done() for call in calls) == number)
    return [call for call in calls if call.done()]
