"""A request's fate is its own, over a real socket: cancels, failing models, bad input, deadlines, a dead thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from numpy.typing import NDArray

from server.app import App
from server.config import ServerSettings
from server.models.bundle import Bundle
from server.models.session import Session
from server.pb.swiftrec.v1 import encoder_pb2 as pb
from server.pb.swiftrec.v1.encoder_pb2_grpc import EncoderServiceStub
from server.pb.swiftrec.v1.recommender_pb2 import Event, RecommendRequest
from server.pb.swiftrec.v1.recommender_pb2_grpc import RecommenderServiceStub
from tests.until import LONG, until

_LATE_S = 2.0  # a deadline that passes while its call waits, and not before it does


class Gated:
    """A session that waits at its gate, counts the batches it ran, and fails where it is told to."""

    def __init__(self, width: int) -> None:
        self._width = width
        self.gate, self.entered = threading.Event(), threading.Semaphore(0)
        self.gate.set()
        self.sizes: list[int] = []
        self.fails = 0

    def run(self, feeds: dict[str, NDArray[np.generic]]) -> NDArray[np.float32]:
        rows, is_failing = len(next(iter(feeds.values()))), self.fails > 0
        self.fails -= is_failing
        self.entered.release()
        assert self.gate.wait(LONG)
        if is_failing:
            raise RuntimeError("the model fails")
        self.sizes.append(rows)
        return np.ones((rows, self._width), dtype=np.float32)


class Bench:
    """A server over gated sessions and a client of it."""

    def __init__(self, app: App, encoder: Gated, ranker: Gated, channel: grpc.Channel) -> None:
        self.app, self.encoder, self.ranker = app, encoder, ranker
        self.recommender = RecommenderServiceStub(channel)
        self.stub, self.health = EncoderServiceStub(channel), health_pb2_grpc.HealthStub(channel)

    def ask(self, text: str, timeout: float = LONG) -> grpc.Future:  # type: ignore[type-arg]
        return self.stub.Encode.future(pb.EncodeRequest(texts=[text]), timeout=timeout)

    def hold(self) -> grpc.Future:  # type: ignore[type-arg]
        """Keep the session busy, so that what follows shares a batch."""
        self.encoder.gate.clear()
        while self.encoder.entered.acquire(blocking=False):
            pass
        first = self.ask("the first")
        assert self.encoder.entered.acquire(timeout=LONG)
        return first

    def until_waiting(self, jobs: int) -> None:
        """Until so many jobs wait; every change of the queue comes from a call that is on its way."""
        with self.app.registry.use() as engine:
            until(lambda: engine.encode.load().jobs == jobs, lambda: f"{engine.encode.load()}, expected {jobs} jobs")

    def recommend(self, timeout: float = LONG) -> grpc.Future:  # type: ignore[type-arg]
        """Ask for what has no text, so that only the ranker works."""
        return self.recommender.Recommend.future(RecommendRequest(history=[Event(item_id="50")]), timeout=timeout)

    def until_ranking(self, jobs: int) -> None:
        """As `until_waiting`, for the ranker."""
        with self.app.registry.use() as engine:
            until(lambda: engine.rank.load().jobs == jobs, lambda: f"{engine.rank.load()}, expected {jobs} jobs")

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
    app.start()
    encoder.sizes.clear()
    ranker.sizes.clear()
    with grpc.insecure_channel(f"127.0.0.1:{app.port}", [("grpc.use_local_subchannel_pool", 1)]) as channel:
        try:
            yield Bench(app, encoder, ranker, channel)
        finally:
            encoder.gate.set()
            ranker.gate.set()
            app.stop()


def code(future: grpc.Future) -> grpc.StatusCode:  # type: ignore[type-arg]
    with pytest.raises(grpc.RpcError) as caught:
        future.result(LONG)
    assert isinstance(caught.value, grpc.Call)
    return caught.value.code()


def test_first_of_a_batch_cancels_and_its_mates_are_answered(bundle: Bundle) -> None:
    with bench(bundle) as one:
        held = one.hold()
        calls = [one.ask(f"text {n}") for n in range(5)]
        one.until_waiting(5)
        calls[0].cancel()
        one.until_waiting(4)
        one.encoder.gate.set()
        assert all(call.result(LONG).rows == 1 for call in [held, *calls[1:]])
        assert one.encoder.sizes == [1, 4]
        assert one.ask("the next").result(LONG).rows == 1
        assert one.is_healthy()


def test_running_job_whose_caller_leaves_harms_nobody(bundle: Bundle) -> None:
    with bench(bundle) as one:
        held = one.hold()
        held.cancel()
        mate = one.ask("text")
        one.until_waiting(1)
        one.encoder.gate.set()
        assert mate.result(LONG).rows == 1


def test_model_that_raises_once_fails_nobody(bundle: Bundle) -> None:
    with bench(bundle) as one:
        held = one.hold()
        calls = [one.ask(f"text {n}") for n in range(4)]
        one.until_waiting(4)
        one.encoder.fails = 1  # for the batch that runs now: it is run again alone and succeeds
        one.encoder.gate.set()
        assert all(call.result(LONG).rows == 1 for call in [held, *calls])
        assert one.ask("the next").result(LONG).rows == 1
        assert one.is_healthy()


def test_model_that_fails_on_one_text_fails_that_one_only(bundle: Bundle) -> None:
    with bench(bundle) as one:
        held = one.hold()
        calls = [one.ask(f"text {n}") for n in range(3)]
        one.until_waiting(3)
        one.encoder.gate.set()
        assert held.result(LONG).rows == 1
        assert all(call.result(LONG).rows == 1 for call in calls)
        one.encoder.fails = 2  # a batch of one: run, isolated at once
        assert code(one.ask("guilty")) is grpc.StatusCode.INTERNAL
        one.encoder.fails = 0
        assert one.ask("the next").result(LONG).rows == 1
        assert one.is_healthy()


def test_bad_payload_is_refused_and_its_mates_are_answered(bundle: Bundle) -> None:
    with bench(bundle) as one:
        held = one.hold()
        good = one.ask("good")
        bad = one.stub.Encode.future(pb.EncodeRequest(texts=["good", ""]), timeout=LONG)
        assert code(bad) is grpc.StatusCode.INVALID_ARGUMENT
        one.encoder.gate.set()
        assert [call.result(LONG).rows for call in (held, good)] == [1, 1]
        assert one.ask("the next").result(LONG).rows == 1
        assert one.is_healthy()


class Freed:
    """Hears of each place that a model's queue gets back, without a look that would hold the interpreter."""

    def __init__(self, one: Bench, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self._places = threading.Semaphore(0)
        with one.app.registry.use() as engine:
            monkeypatch.setattr(engine.watch.models[model], "dropped", lambda _why: self._places.release())

    def wait(self, places: int) -> None:
        """Until `places` more are free."""
        assert all(self._places.acquire(timeout=LONG) for _ in range(places))


def test_cancelled_and_expired_calls_free_their_places_while_the_model_is_busy(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bench(bundle) as one:
        freed = Freed(one, "encoder", monkeypatch)
        one.hold()
        calls = [one.ask(f"text {n}") for n in range(20)]
        late = [one.ask(f"late {n}", timeout=_LATE_S) for n in range(20)]
        one.until_waiting(40)
        for call in calls:
            call.cancel()
        freed.wait(20)  # the model is still held
        assert {code(call) for call in late} == {grpc.StatusCode.DEADLINE_EXCEEDED}
        freed.wait(20)  # the model is still held
        one.until_waiting(0)
        one.encoder.gate.set()
        assert one.ask("the next").result(LONG).rows == 1
        assert one.encoder.sizes == [1, 1]  # none of the forty ran


def test_calls_that_wait_for_ranking_free_their_places_while_the_model_is_busy(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bench(bundle) as one:
        freed = Freed(one, "ranker", monkeypatch)
        one.ranker.gate.clear()
        while one.ranker.entered.acquire(blocking=False):
            pass
        held = one.recommend()
        assert one.ranker.entered.acquire(timeout=LONG)
        calls, late = [one.recommend() for _ in range(20)], [one.recommend(timeout=_LATE_S) for _ in range(20)]
        one.until_ranking(40)
        for call in calls:
            call.cancel()
        freed.wait(20)  # the model is still held
        assert {code(call) for call in late} == {grpc.StatusCode.DEADLINE_EXCEEDED}
        freed.wait(20)  # the model is still held
        one.until_ranking(0)
        one.ranker.gate.set()
        assert held.result(LONG).items
        assert one.recommend().result(LONG).items
        assert one.ranker.sizes == [1, 1]  # none of the forty ran


def test_full_server_says_when_to_come_again(bundle: Bundle) -> None:
    with bench(bundle, max_waiting_jobs=3) as one:
        one.hold()
        calls = [one.ask(f"text {n}") for n in range(3)]
        one.until_waiting(3)
        refused = one.ask("too many")
        assert code(refused) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "Exceeds maximum queue size" in refused.details()  # type: ignore[attr-defined] # as Triton's clients ask
        assert int(dict(refused.trailing_metadata())["grpc-retry-pushback-ms"]) >= 1  # type: ignore[attr-defined]
        status, retry = rpc_status.from_call(cast("grpc.Call", refused)), error_details_pb2.RetryInfo()
        assert status.details[0].Unpack(retry)
        assert retry.retry_delay.ToTimedelta().total_seconds() > 0
        one.encoder.gate.set()
        assert all(call.result(LONG).rows == 1 for call in calls)


def test_calls_beyond_the_bound_are_refused_with_retry_info(bundle: Bundle) -> None:
    with bench(bundle, max_calls=4) as one:
        held = [one.hold(), *[one.ask(f"text {n}") for n in range(3)]]
        one.until_waiting(3)
        refused = one.ask("too many")
        assert code(refused) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (
            error_details_pb2.RetryInfo.DESCRIPTOR.full_name
            in rpc_status.from_call(cast("grpc.Call", refused)).details[0].type_url
        )
        one.encoder.gate.set()
        assert all(call.result(LONG).rows == 1 for call in held)


def test_dead_batching_thread_turns_health_off(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    with bench(bundle) as one:
        assert one.is_healthy()
        with one.app.registry.use() as engine:

            def broken(*_: object) -> None:
                raise RuntimeError("a bug of ours")

            monkeypatch.setattr(engine.watch.models["encoder"], "ran", broken)
        assert code(one.ask("text")) is grpc.StatusCode.UNAVAILABLE
        assert not one.is_healthy()


def test_outcomes_in_the_metrics_are_those_that_clients_saw(bundle: Bundle) -> None:
    with bench(bundle, max_waiting_jobs=3) as one:
        held = one.hold()
        waiting = [one.ask(f"text {n}") for n in range(3)]
        one.until_waiting(3)
        full = [one.ask(f"full {n}") for n in range(4)]
        bad = [one.ask("") for _ in range(5)]
        seen = [code(call) for call in (*full, *bad)]
        one.encoder.gate.set()
        assert all(call.result(LONG).rows == 1 for call in [held, *waiting])
        calls = one.app.metrics.calls
        assert seen.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == calls.count("Encode", "RESOURCE_EXHAUSTED") == 4
        assert seen.count(grpc.StatusCode.INVALID_ARGUMENT) == calls.count("Encode", "INVALID_ARGUMENT") == 5
        until(lambda: calls.count("Encode", "OK") == 4)  # an answer is counted when it has been handed to gRPC
