"""The engine as it starts: its sessions, what warm-up measures, and when the server says that it serves."""

from __future__ import annotations

import gc
import os
import threading
from pathlib import Path

import grpc
import numpy as np
import onnxruntime
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from numpy.typing import NDArray

from swiftrec.benchmarks.null_server import NullSession
from swiftrec.server.app import App
from swiftrec.server.config import ServerSettings
from swiftrec.server.domain import ItemEvent, Recommendation, Request, TextEvent
from swiftrec.server.models.bundle import Bundle
from swiftrec.server.models.session import Session
from swiftrec.server.pb.swiftrec.v1.recommender_pb2 import RecommendRequest
from swiftrec.server.pb.swiftrec.v1.recommender_pb2_grpc import RecommenderServiceStub
from swiftrec.server.pipeline.engine import EngineOptions
from swiftrec.server.pipeline.recommend import explain
from swiftrec.server.pipeline.recommender import Recommender
from tests.until import until

_LONG = 30.0
_SERVICES = ("", "swiftrec.v1.RecommenderService", "swiftrec.v1.EncoderService", "inference.GRPCInferenceService")


def test_cpu_has_one_session_per_core_and_gpu_has_one() -> None:
    cores = len(os.sched_getaffinity(0))
    assert (EngineOptions().session_count(), EngineOptions().threads) == (cores, 1)
    assert EngineOptions(device="cuda").session_count() == EngineOptions(device="tensorrt").session_count() == 1
    assert EngineOptions(sessions=5).session_count() == 5
    assert EngineOptions(threads=cores).session_count() == 1


def test_session_uses_one_thread_per_operator(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[onnxruntime.SessionOptions] = []

    def kept(path: str, options: onnxruntime.SessionOptions, **named: object) -> onnxruntime.InferenceSession:
        given.append(options)
        return opened(path, options, **named)

    opened = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "InferenceSession", kept)
    Recommender(bundle, EngineOptions())
    assert {options.intra_op_num_threads for options in given} == {1}
    assert len(given) == 2


def test_warm_up_seeds_the_cost_models(bundle: Bundle) -> None:
    now = [0.0]

    class TimedSession(NullSession):
        """Each run takes the same time by the clock of the engine."""

        def run(self, feeds: dict[str, NDArray[np.generic]]) -> NDArray[np.float32]:
            now[0] += self._service_s
            return np.zeros((len(next(iter(feeds.values()))), self._width), dtype=np.float32)

    def open_slow(path: Path, _device: str, _threads: int) -> Session:
        return TimedSession.of(path, 0.02 if path.name.startswith("encoder") else 0.04)

    engine = Recommender(bundle, EngineOptions(), open_session=open_slow, clock=lambda: now[0])
    sizes = ((1, 5), (8, 40), (20, 10))
    encoder, ranker = engine.stages.encoder.cost, engine.stages.ranker.cost
    assert all(cost(*size) < 0.01 for cost in (encoder, ranker) for size in sizes)
    engine.start()
    for size in sizes:
        assert 0.015 < encoder(*size) < 0.04
        assert 0.03 < ranker(*size) < 0.08


class Held(NullSession):
    """A session that waits at its gate."""

    gate = threading.Event()

    def run(self, feeds: dict[str, NDArray[np.generic]]) -> NDArray[np.float32]:
        assert self.gate.wait(_LONG)
        return super().run(feeds)


def test_server_is_not_serving_until_it_is_warm(bundle: Bundle) -> None:
    Held.gate.clear()
    settings = ServerSettings(bundle=[bundle.folder], port=0, metrics_port=0, _cli_parse_args=[])
    app = App(settings, open_session=lambda path, *_: Held.of(path, 0.0))
    starting = threading.Thread(target=app.start)
    starting.start()
    try:
        until(lambda: app.port > 0)
        with grpc.insecure_channel(f"127.0.0.1:{app.port}") as channel:
            health = health_pb2_grpc.HealthStub(channel)

            def states() -> set[int]:
                requested = [health_pb2.HealthCheckRequest(service=service) for service in _SERVICES]
                return {health.Check(entry, timeout=_LONG, wait_for_ready=True).status for entry in requested}

            assert states() == {health_pb2.HealthCheckResponse.NOT_SERVING}
            with pytest.raises(grpc.RpcError) as caught:
                RecommenderServiceStub(channel).Recommend(RecommendRequest(query="x"), timeout=_LONG)
            assert isinstance(caught.value, grpc.Call)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            Held.gate.set()
            starting.join(_LONG)
            assert states() == {health_pb2.HealthCheckResponse.SERVING}
    finally:
        Held.gate.set()
        starting.join(_LONG)
        app.stop()


def test_garbage_collector_does_not_scan_objects_of_the_bundle(bundle: Bundle) -> None:
    settings = ServerSettings(bundle=[bundle.folder], port=0, metrics_port=0, _cli_parse_args=[])
    app = App(settings, open_session=lambda path, *_: NullSession.of(path, 0.0))
    app.start()
    with app.registry.lease() as engine:
        looked_at = any(entry is engine.catalogue for entry in gc.get_objects())
        app.stop()
        assert not looked_at
        assert any(entry is engine.catalogue for entry in gc.get_objects())


def test_answered_calls_leave_no_reference_cycles(bundle: Bundle) -> None:
    engine = Recommender(
        bundle, EngineOptions(sessions=1, cache_bytes=0), open_session=lambda path, *_: NullSession.of(path, 0.0)
    )
    engine.start()
    requests = [Request(history=(TextEvent(f"a text {n}"), ItemEvent("50")), query="films") for n in range(3)]

    def answer() -> None:
        assert all(isinstance(answer, Recommendation) for answer in engine.recommend(requests))

    answer()
    gc.collect()
    gc.disable()
    try:
        for _ in range(50):
            answer()
        assert gc.collect() < 50  # one object that holds itself in each call would be as many
    finally:
        gc.enable()
        engine.stop()


def test_contributions_sum_to_the_score_in_the_quick_bundle(bundle: Bundle) -> None:
    """For items that histories, titles and descriptions find; the event is one that is in the history."""
    with Recommender(bundle, EngineOptions(sessions=1)) as engine:
        first, second = engine.catalogue.items[0], engine.catalogue.items[7]
        history = (ItemEvent("unknown"), TextEvent(first.title), ItemEvent(second.id), TextEvent("old westerns"))
        for request in (Request(history=history), Request(query=first.title), Request(history=history, query="space")):
            state = engine.resolve(request)
            engine.run([state])
            answer = engine.to_result(state)
            assert isinstance(answer, Recommendation)
            actual = explain(engine.stages, state)
            assert len(actual) == len(answer.items) == request.top_k
            for entry, (_, score) in zip(actual, answer.items, strict=True):
                assert sum(entry.parts.values()) == pytest.approx(score, abs=1e-3)
                assert entry.event in ((1, 2, None) if request.history else (None,))
            assert all(entry.parts["ranker"] for entry in actual)
            assert any(entry.event is not None for entry in actual) is bool(request.history)
