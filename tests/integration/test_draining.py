"""What health says of each service while the server stops or has failed, and that both protocols have one queue."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import grpc
import pytest
from grpc_health.v1 import health_pb2
from tritonclient.grpc import service_pb2, service_pb2_grpc

from server.app import _SERVICES
from server.models.bundle import Bundle
from tests.integration.test_isolation import Bench, bench, code

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
        one.encoder.gate.set()
        assert held.result(_LONG).rows == 1
        stopping.join()


def test_each_service_is_not_serving_after_a_batching_thread_died(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bench(bundle, grace_ms=_GRACE_MS) as one:
        watchers = watch(one)
        assert [next(watcher).status for watcher in watchers] == [_SERVING] * len(_NAMES)
        with one.app.registry.use() as engine:

            def broken(*_: object) -> None:
                raise RuntimeError("a bug of ours")

            monkeypatch.setattr(engine.watch.models["encoder"], "ran", broken)
        assert code(one.ask("text")) is grpc.StatusCode.UNAVAILABLE
        assert [next(watcher).status for watcher in watchers] == [_NOT_SERVING] * len(_NAMES)


def test_both_protocols_share_one_queue_and_one_batch(bundle: Bundle) -> None:
    with bench(bundle) as one, grpc.insecure_channel(f"127.0.0.1:{one.app.port}") as channel:
        request = service_pb2.ModelInferRequest(model_name="encoder")
        tensor = request.inputs.add(name="TEXT", datatype="BYTES", shape=(1, 1))
        tensor.contents.bytes_contents.append(b"text 1")
        held, mine = one.hold(), one.ask("text 2")
        theirs = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer.future(request, timeout=_LONG)
        one.until_waiting(2)
        one.encoder.gate.set()
        assert held.result(_LONG).rows == mine.result(_LONG).rows == 1
        assert theirs.result(_LONG).outputs[0].shape == [1, 128]
        assert one.encoder.sizes == [1, 2]
