"""The figures that the project promises, from the bundle's own record and from a server in a process of its own."""

from __future__ import annotations

import time
from statistics import median

import psutil

from server.models.bundle import Bundle
from server.pb.swiftrec.v1 import recommender_pb2 as pb
from tests.integration.process import serving

_QUERY = "a funny film about two friends who go to space"  # ten words


def test_quality_is_what_is_promised(bundle: Bundle) -> None:
    tasks = bundle.manifest.quality["tasks"]
    served = tasks[bundle.manifest.default["cpu"]]
    assert served["ids"]["mean"] >= 0.085
    assert served["ids"]["mean"] > tasks["popularity"]["ids"]["mean"]
    assert served["ids"]["mean"] > tasks["EASE"]["ids"]["mean"]
    assert served["query"]["mean"] >= 0.70
    assert served["text"]["mean"] >= 0.95 * tasks["teacher"]["text"]["mean"]
    assert bundle.manifest.quality["parity"] <= 1e-4


def test_unloaded_server_is_quick_and_small(bundle: Bundle) -> None:
    with serving(bundle.folder, "--cache-mb", "0") as server:
        request = pb.RecommendRequest(query=_QUERY, history=[pb.Event(item_id="50")])
        for _ in range(20):
            server.stub.Recommend(request, timeout=10)
        times = []
        for _ in range(200):
            started = time.perf_counter()
            server.stub.Recommend(request, timeout=10)
            times.append(1e3 * (time.perf_counter() - started))
        process = psutil.Process(server.pid)
        megabytes = process.memory_info().rss / 1e6
        loaded = {m.path for m in process.memory_maps()}
    assert median(times) <= 10, f"p50 {median(times):.1f} ms"
    assert megabytes <= 400
    assert not [path for path in loaded if "torch" in path]
