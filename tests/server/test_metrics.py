"""Every metric that is promised is on /metrics, and says what happened."""

from __future__ import annotations

import time
import urllib.request

import grpc
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.grpc import service_pb2

from swiftrec.server.app import App
from swiftrec.server.models.bundle import Bundle
from swiftrec.server.pb.swiftrec.v1.recommender_pb2 import Event, RecommendRequest
from tests.server.test_isolation import bench, code, refused_of
from tests.until import LONG, until

_STEPS = ("tokenise", "encode", "rank", "retrieve", "total")
_MODELS = ("encoder", "ranker")
_HISTOGRAMS = ("swiftrec_queue_seconds", "swiftrec_batch_jobs", "swiftrec_batch_tokens", "swiftrec_padding_ratio")


class Page:
    """What /metrics says now."""

    def __init__(self, app: App) -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{app.metrics_port}/metrics", timeout=LONG) as page:
            families = list(text_string_to_metric_families(page.read().decode()))
        self._samples = [sample for family in families for sample in family.samples]

    def __call__(self, name: str, **labels: str) -> float:
        """The sum of the samples of that name whose labels are these and maybe more."""
        found = [one.value for one in self._samples if one.name == name and labels.items() <= one.labels.items()]
        assert found, f"no {name} with {labels}"
        return sum(found)


def test_every_promised_metric_says_what_happened(bundle: Bundle) -> None:
    with bench(bundle, max_waiting_jobs=3, max_batch_jobs=1, cache_mb=8) as one:
        history = RecommendRequest(query="a western", history=[Event(item_id="50")])
        for _ in range(2):  # the second query comes from the cache
            assert one.recommender.Recommend(history, timeout=LONG).items
        held = one.hold()
        assert code(one.ask("late", timeout=0.5)) is grpc.StatusCode.DEADLINE_EXCEEDED
        gone = one.ask("gone")  # it came first, and its deadline is the last: it waits
        one.until_calls(2)
        calls = [one.ask(f"text {n}", timeout=LONG / 2) for n in range(3)]
        one.until_calls(5)
        one.admit()
        (refused,) = refused_of(calls, 1)
        assert code(refused) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert Page(one.app)("swiftrec_waiting_jobs", model="encoder") == 2  # of the three one is in the step
        assert Page(one.app)("nv_inference_pending_request_count", model=f"{bundle.manifest.name}.encoder") == 2
        assert Page(one.app)("swiftrec_calls_in_flight") == 3
        answered = [call for call in calls if call is not refused]
        gone.cancel()
        one.until_calls(2)
        one.encoder.open()
        assert all(call.result(LONG).rows == 1 for call in (held, *answered))
        assert one.ask("the first").result(LONG).rows == 1  # from the cache
        counts = one.app.metrics.calls
        until(lambda: counts.count("Encode", "CANCELLED") == counts.count("Encode", "DEADLINE_EXCEEDED") == 1)
        until(lambda: counts.count("Encode", "OK") == 4 and not one.app.limiters.calls.in_use)
        page, name = Page(one.app), bundle.manifest.name
    for step in _STEPS:
        assert page("swiftrec_step_seconds_count", step=step) == 2
    assert page("swiftrec_step_seconds_sum", step="total") > page("swiftrec_step_seconds_sum", step="encode") > 0
    batches = {"encoder": 4, "ranker": 2}  # the query, the first text, two that waited; two users
    for model in _MODELS:
        for metric in _HISTOGRAMS[1:]:
            assert page(f"{metric}_count", model=model, bundle=name) == batches[model]
        assert page("swiftrec_session_busy_seconds_total", model=model) > 0
        assert page("nv_inference_exec_count", model=f"{name}.{model}") == batches[model]
        assert page("nv_inference_compute_infer_duration_us", model=f"{name}.{model}") > 0
    assert page("swiftrec_steps_total", reason="full") == 1  # two waited, and a step has one
    assert page("swiftrec_steps_total", reason="drained") == 5
    assert page("swiftrec_queue_seconds_count", model="encoder") == 4
    assert page("swiftrec_batch_jobs_sum", model="encoder") == page("nv_inference_count", model=f"{name}.encoder") == 4
    assert page("swiftrec_calls_rejected_total", reason="full") == 1
    assert page("swiftrec_jobs_dropped_total", model="encoder", cause="cancelled") == 1
    assert page("swiftrec_cache_lookups_total", where="hit") == 2
    assert page("swiftrec_cache_lookups_total", where="miss") == 4
    assert page("nv_cache_num_hits_per_model", model=f"{name}.encoder") == 1
    assert page("nv_cache_num_misses_per_model", model=f"{name}.encoder") == 3
    assert page("nv_inference_request_success", model=f"{name}.encoder") == 4
    assert page("swiftrec_cache_bytes") > 0
    assert page("swiftrec_calls_in_flight") == page("swiftrec_waiting_jobs") == page("swiftrec_waiting_tokens") == 0
    assert page("swiftrec_call_seconds_count", method="Encode", code="RESOURCE_EXHAUSTED") == 1
    assert page("swiftrec_call_seconds_count", method="Encode", code="CANCELLED") == 1
    assert page("swiftrec_call_seconds_count", method="Encode", code="DEADLINE_EXCEEDED") == 1
    assert page("swiftrec_call_seconds_count", method="Recommend", code="OK") == 2
    assert page("nv_inference_request_success", model=f"{name}.ranker") == 2


def test_requests_that_expire_in_the_queue_are_counted_by_that_cause(bundle: Bundle) -> None:
    """The timeout that a request of the Open Inference Protocol sets is known to the worker alone."""
    with bench(bundle, max_batch_jobs=1) as one:
        held, expiring = one.hold(), service_pb2.ModelInferRequest(model_name="encoder")
        expiring.inputs.add(name="TEXT", datatype="BYTES", shape=(1, 1)).contents.bytes_contents.append(b"late")
        expiring.parameters["timeout"].int64_param = 20_000  # microseconds from when the worker has it
        expiring.parameters["priority"].uint64_param = 9
        calls = [one.ask("first"), one.inference.ModelInfer.future(expiring, timeout=LONG)]
        one.until_calls(3)
        one.admit()
        ends = time.monotonic() + 0.02
        until(lambda: time.monotonic() > ends)
        one.encoder.open()
        assert code(calls[1]) is grpc.StatusCode.DEADLINE_EXCEEDED
        assert [call.result(LONG).rows for call in (held, calls[0])] == [1, 1]
        assert Page(one.app)("swiftrec_jobs_dropped_total", model="encoder", cause="expired") == 1
        assert one.encoder.sizes == [1, 1]
