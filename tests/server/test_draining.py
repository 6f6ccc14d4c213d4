"""What health says of each service while the server stops or has failed, and that both protocols have one queue."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import grpc
import pytest
from grpc_health.v1 import health_pb2
from tritonclient.grpc import service_pb2, service_pb2_grpc

from swiftrec.server.app import _SERVICES
from swiftrec.server.models.bundle import Bundle
from swiftrec.server.pb.swiftrec.v1.encoder_pb2 import EncodeRequest
from swiftrec.server.pb.swiftrec.v1.encoder_pb2_grpc import EncoderServiceStub
from tests.server.test_isolation import Bench, bench, code

_LONG = 30.0
_GRACE_MS = 3_000  # open Watch streams last until its end
_NAMES = ("", *_SERVICES)
_SERVING, _NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def watch(one: Bench) -> list[Iterator[health_pb2.HealthCheckResponse]]:
    return [one.health.Watch(health_pb2.HealthCheckRequest(service=name), timeout=_LONG) for name in _NAMES]


def test_each_service_is_not_serving_before_the_accepted_calls_are_answered(bundle: Bundle) -> None:
    with bench(bundle, grace_ms=_GRACE_MS) as one:
        held, watchers = one.hold(), watch(one)
        assert [next(watcher).status for watcher in watchers] == [_SERVING] * len(_NAMES)
        stopping = threading.Thread(target=one.app.stop)
        stopping.start()
        assert [next(watcher).status for watcher in watchers] == [_NOT_SERVING] * len(_NAMES)
        assert not held.done()
        one.encoder.open()
        assert held.result(_LONG).rows == 1
        stopping.join()


def test_each_service_is_not_serving_after_the_worker_died(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    with bench(bundle, grace_ms=_GRACE_MS) as one:
        watchers = watch(one)
        assert [next(watcher).status for watcher in watchers] == [_SERVING] * len(_NAMES)
        monkeypatch.setattr(one.app.worker, "step", lambda: 1 / 0)
        assert code(one.ask("text")) is grpc.StatusCode.UNAVAILABLE
        assert [next(watcher).status for watcher in watchers] == [_NOT_SERVING] * len(_NAMES)


def test_calls_are_answered_during_the_drain_and_hurrying_ends_it(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swiftrec.server.app.probe", lambda *_: None)
    with bench(bundle, grace_ms=_GRACE_MS, drain_ms=3_600_000) as one:
        watcher = one.health.Watch(health_pb2.HealthCheckRequest(), timeout=_LONG)
        assert next(watcher).status == _SERVING
        stopping = threading.Thread(target=one.app.stop)
        stopping.start()
        assert next(watcher).status == _NOT_SERVING
        assert one.ask("text").result(_LONG).rows == 1
        with grpc.insecure_channel(f"127.0.0.1:{one.app.port}", [("grpc.use_local_subchannel_pool", 1)]) as late:
            assert EncoderServiceStub(late).Encode(EncodeRequest(texts=["late"]), timeout=_LONG).rows == 1
        one.app.registry.load(bundle.manifest.name)
        assert not one.is_healthy()
        assert stopping.is_alive()
        one.app.hurry()
        stopping.join(_LONG)
        assert not stopping.is_alive()


def test_both_protocols_share_one_queue_and_one_batch(bundle: Bundle) -> None:
    with bench(bundle) as one, grpc.insecure_channel(f"127.0.0.1:{one.app.port}") as channel:
        request = service_pb2.ModelInferRequest(model_name="encoder")
        tensor = request.inputs.add(name="TEXT", datatype="BYTES", shape=(1, 1))
        tensor.contents.bytes_contents.append(b"text 1")
        held, mine = one.hold(), one.ask("text 2")
        theirs = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer.future(request, timeout=_LONG)
        one.until_calls(3)
        one.encoder.open()
        assert held.result(_LONG).rows == mine.result(_LONG).rows == 1
        assert theirs.result(_LONG).outputs[0].shape == [1, 128]
        assert one.encoder.sizes == [1, 2]
