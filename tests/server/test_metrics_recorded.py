"""Metrics, statistics and histograms count what was recorded."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from swiftrec.server import errors
from swiftrec.server.batching.scheduler import Limits
from swiftrec.server.front.outcomes import client_code, log_reason
from swiftrec.server.pb.swiftrec.v1 import encoder_pb2
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from swiftrec.server.status import code_of
from swiftrec.server.telemetry.histogram import Histogram, HistogramFamily
from swiftrec.server.telemetry.metrics import BundleRecorder, Metrics
from swiftrec.server.telemetry.statistics import Statistics
from swiftrec.server.ticket import Reply, Ticket
from tests.server.support import small
from tests.server.support.workers import BATCH_RECOMMEND, ENCODE, RECOMMEND, SmallEngine

_SLACK_NS = 1_000  # each figure is rounded to whole ns


@pytest.fixture(scope="module")
def small_engine(tmp_path_factory: pytest.TempPathFactory) -> SmallEngine:
    engine = SmallEngine(small.write_bundle(tmp_path_factory.mktemp("small") / "1"), cache_bytes=2_000)
    engine.encoder.row_s, engine.ranker.row_s = 1 / 64, 1 / 128
    return engine


def message(method: str, numbers: list[int]) -> bytes:
    """A call about these texts."""
    texts = [f"a{n}" for n in numbers]
    if method == ENCODE:
        return encoder_pb2.EncodeRequest(texts=texts).SerializeToString()
    if method == BATCH_RECOMMEND:
        requests = [pb.RecommendRequest(query=text, top_k=1) for text in texts]
        return pb.BatchRecommendRequest(requests=requests).SerializeToString()
    return pb.RecommendRequest(history=[pb.Event(text=text) for text in texts]).SerializeToString()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    calls=st.lists(
        st.tuples(
            st.sampled_from([RECOMMEND, BATCH_RECOMMEND, ENCODE]),
            st.lists(st.integers(0, 30), min_size=1, max_size=5),
            st.integers(0, 8).map(lambda n: n / 128),
        ),
        min_size=1,
        max_size=10,
    ),
    batch_size=st.integers(1, 6),
)
def test_queue_and_compute_times_do_not_exceed_the_request_time(
    small_engine: SmallEngine, calls: list[tuple[str, list[int], float]], batch_size: int
) -> None:
    counts = [recorder.statistics for recorder in small_engine.engine.recorder.models.values()]
    replies, worker = list[Reply](), small_engine.worker(Limits(batch_size=batch_size))
    before = [(each.success_ns, each.queue_ns, each.compute_ns, each.success) for each in counts]
    for method, numbers, pause_s in calls:
        worker.admit(Ticket(method, message(method, numbers), 1e9, replies.append))
        small_engine.clock.now += pause_s
        if pause_s > 1 / 64:
            worker.step()
    while worker.has_work:
        worker.step()
    assert all(isinstance(reply, bytes) for reply in replies)
    for each, (total_ns, queue_ns, compute_ns, _) in zip(counts, before, strict=True):
        assert each.queue_ns - queue_ns >= 0
        assert each.compute_ns - compute_ns >= 0
        waited_and_ran_ns = each.queue_ns - queue_ns + each.compute_ns - compute_ns
        assert waited_and_ran_ns <= each.success_ns - total_ns + _SLACK_NS
    requested = {ENCODE: 0, RECOMMEND: 0, BATCH_RECOMMEND: 0}
    for method, numbers, _ in calls:
        requested[method] += len(numbers) if method == BATCH_RECOMMEND else 1
    actual = [each.success - succeeded for each, (*_, succeeded) in zip(counts, before, strict=True)]
    assert actual == [requested[ENCODE], requested[RECOMMEND] + requested[BATCH_RECOMMEND]]


def test_request_of_several_texts_counts_once_with_its_longest_batch(small_engine: SmallEngine) -> None:
    model = small_engine.engine.recorder.models["encoder"]
    before = model.snapshot()
    worker = small_engine.worker(Limits(batch_size=2))
    worker.admit(Ticket(ENCODE, message(ENCODE, [900, 901, 902]), 1e9, lambda _reply: None))
    small_engine.clock.now += 1.0
    while worker.has_work:
        worker.step()
    after = model.snapshot()
    assert after.success - before.success == 1
    assert (after.queue_ns - before.queue_ns) / 1e9 == pytest.approx(1.0)
    assert (after.compute_ns - before.compute_ns) / 1e9 == pytest.approx(2 / 64)
    assert (after.success_ns - before.success_ns) / 1e9 == pytest.approx(1.0 + 3 / 64)


def test_hits_and_misses_are_the_successes() -> None:
    counts = Statistics()
    counts.count_success(3.0, 1.0, 0.5)
    counts.count_success(1.0, 0.75, 0.0, was_cached=True)
    counts.count_failure(7.0)
    assert (counts.success, counts.cache_hits, counts.cache_misses, counts.failure) == (2, 1, 1, 1)
    assert counts.success_ns == pytest.approx(4e9)
    assert (counts.queue_ns, counts.compute_ns, counts.cache_hit_ns) == (1_750_000_000, 500_000_000, 250_000_000)


def samples(metrics: Metrics, meanwhile: Callable[[], object] = lambda: None) -> dict[str, float]:
    """The samples of the encoder on one page, `name` or `name version`; `meanwhile` runs between its metrics."""
    page: dict[str, float] = {}
    for family in metrics.registry.collect():
        for sample in family.samples:
            if sample.labels.get("model", "").endswith("encoder"):
                page[" ".join([sample.name, *([sample.labels["version"]] if "version" in sample.labels else [])])] = (
                    sample.value
                )
        meanwhile()
    return page


@given(
    batches=st.lists(
        st.tuples(st.integers(1, 300), st.integers(1, 50), st.integers(0, 50), st.integers(0, 2_000)), max_size=20
    ),
    threads=st.integers(1, 3),
)
def test_every_metric_of_a_batch_comes_from_one_record(batches: list[tuple[int, int, int, int]], threads: int) -> None:
    metrics = Metrics()
    recorder = BundleRecorder(metrics, "b", 1)
    metrics.bundles = lambda: [recorder]
    model = recorder.models["encoder"]

    def run() -> None:
        for rows, tokens, padding, ms in batches:
            model.on_batch(rows, tokens, tokens + padding, ms / 1e3)

    with ThreadPoolExecutor(threads) as pool:
        for future in [pool.submit(run) for _ in range(threads)]:
            future.result()
    page, statistics = samples(metrics), model.snapshot()
    executions, inferences = threads * len(batches), threads * sum(rows for rows, *_ in batches)
    for name in ("swiftrec_batch_size", "swiftrec_batch_tokens", "swiftrec_padding_ratio"):
        assert page[f"{name}_count"] == executions
    assert page["nv_inference_exec_count 1"] == statistics.executions == executions
    assert page["nv_inference_count 1"] == page["swiftrec_batch_size_sum"] == statistics.inferences == inferences
    assert page["swiftrec_batch_tokens_sum"] == threads * sum(tokens + padding for _, tokens, padding, _ in batches)
    seconds = sum(size.compute_ns for size in statistics.sizes.values()) / 1e9
    assert page["swiftrec_session_busy_seconds_total"] == pytest.approx(seconds, abs=1e-6)


def test_metrics_of_one_page_are_consistent() -> None:
    metrics = Metrics()
    recorder = BundleRecorder(metrics, "b", 1)
    metrics.bundles = lambda: [recorder]
    model = recorder.models["encoder"]

    def answer() -> None:
        model.on_batch(2, 8, 10, 1e-3)
        model.statistics.count_success(2e-3, 1e-3, 1e-3)
        model.statistics.count_success(1e-3, 0.0, 0.0, was_cached=True)

    answer()
    page = samples(metrics, meanwhile=answer)
    assert page["swiftrec_batch_size_count"] == page["swiftrec_padding_ratio_count"] == 1
    assert page["nv_inference_exec_count 1"] == 1
    assert page["swiftrec_session_busy_seconds_total"] == pytest.approx(1e-3)
    assert page["nv_inference_request_success 1"] == (
        page["nv_cache_num_hits_per_model 1"] + page["nv_cache_num_misses_per_model 1"]
    )
    assert page["nv_inference_request_duration_us 1"] >= (
        page["nv_inference_queue_duration_us 1"] + page["nv_inference_compute_infer_duration_us 1"]
    )


def test_bundle_metrics_include_unloaded_versions_and_a_new_version_starts_at_0() -> None:
    metrics = Metrics()
    old, new = BundleRecorder(metrics, "b", 1), BundleRecorder(metrics, "b", 2)
    for recorder in (old, new, old):
        recorder.models["encoder"].on_batch(4, 8, 10, 1e-3)
    del old, recorder
    metrics.bundles = lambda: [new]
    page = samples(metrics)
    assert page["swiftrec_batch_size_count"] == 3
    assert page["nv_inference_exec_count 2"] == 1
    assert not any(name.endswith(" 1") for name in page)


def test_renamed_metrics_keep_their_old_names_with_a_hint() -> None:
    metrics = Metrics()
    recorder = BundleRecorder(metrics, "b", 1)
    metrics.bundles = lambda: [recorder]
    recorder.models["encoder"].on_queued(7)
    recorder.models["encoder"].on_batch(4, 30, 32, 0.01)
    recorder.models["ranker"].on_dropped("expired")
    recorder.on_lookup("coalesced", 3)
    page = {family.name: family for family in metrics.registry.collect()}
    for old, new in (
        ("swiftrec_waiting_jobs", "swiftrec_queue_requests"),
        ("swiftrec_waiting_tokens", "swiftrec_queue_tokens"),
        ("swiftrec_batch_jobs", "swiftrec_batch_size"),
    ):
        assert page[old].documentation == f"Deprecated: use {new}"
        assert page[old].type == page[new].type
        assert [(entry.name, entry.labels, entry.value) for entry in page[old].samples] == [
            (entry.name.replace(new, old), entry.labels, entry.value) for entry in page[new].samples
        ]
        assert sum(entry.value for entry in page[new].samples) > 0
    dropped, lookups = page["swiftrec_jobs_dropped"], page["swiftrec_cache_lookups"]
    assert dropped.documentation == "Deprecated: use swiftrec_requests_dropped; label cause is deprecated: use reason"
    new_names = {(entry.name, *entry.labels) for entry in page["swiftrec_requests_dropped"].samples}
    assert ("swiftrec_requests_dropped_total", "bundle", "model", "reason") in new_names
    assert lookups.documentation.endswith("label where is deprecated: use source")
    labels = {"bundle": "b", "model": "ranker", "reason": "expired", "cause": "expired"}
    assert [entry.value for entry in dropped.samples if entry.name.endswith("_total") and entry.labels == labels] == [
        1.0
    ]
    labels = {"bundle": "b", "source": "coalesced", "where": "joined"}
    assert [entry.value for entry in lookups.samples if entry.name.endswith("_total") and entry.labels == labels] == [
        3.0
    ]


_BOUNDS = (0.1, 1.0, 10.0)


@given(
    singly=st.lists(st.floats(0, 20), max_size=3_000),
    together=st.lists(st.floats(0, 20), min_size=1, max_size=1_000),
)
def test_histogram_counts_values_up_to_each_bound(singly: list[float], together: list[float]) -> None:
    histogram, values = Histogram(_BOUNDS), singly + together
    for value in singly:
        histogram.add(value)
    histogram.extend(together)
    counts, total = histogram.read()
    assert counts == [*(sum(value <= bound for value in values) for bound in _BOUNDS), len(values)]
    assert abs(total - sum(values)) < 1e-6 * max(1.0, total)


def test_histogram_counts_values_of_every_thread() -> None:
    histogram = Histogram(_BOUNDS)

    def observe() -> None:
        for n in range(20_000):
            histogram.add(n % 3)

    threads = [threading.Thread(target=observe) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert histogram.read()[0][-1] == 80_000


class OneFamily(Collector):
    """Shows one histogram."""

    def __init__(self, family: HistogramFamily) -> None:
        self._family = family

    def collect(self) -> Iterator[Metric]:
        yield self._family.collect()


def test_family_is_a_prometheus_histogram() -> None:
    registry = CollectorRegistry()
    family = HistogramFamily("test_seconds", "A test", _BOUNDS, ["code"])
    registry.register(OneFamily(family))
    for value in (0.05, 5.0, 50.0):
        family.labels("OK").add(value)
    text = generate_latest(registry).decode()
    assert 'test_seconds_bucket{code="OK",le="1.0"} 1.0' in text
    assert 'test_seconds_bucket{code="OK",le="+Inf"} 3.0' in text
    assert 'test_seconds_count{code="OK"} 3.0' in text
    assert family.count("OK") == 3


@pytest.mark.parametrize(
    ("ran_s", "remaining_s", "code"),
    [
        (9.0, 0.0, "DEADLINE_EXCEEDED"),
        (1.2347, 0.0053, "DEADLINE_EXCEEDED"),  # gRPC sends a timeout of 1.2347 s as 1.24 s
        (90.01, 0.09, "DEADLINE_EXCEEDED"),  # and this one as 90.1 s
        (0.05, 0.002, "DEADLINE_EXCEEDED"),
        (1.2, 0.1, "CANCELLED"),
        (80.0, 2.0, "CANCELLED"),
        (5.0, math.inf, "CANCELLED"),
        (5.0, None, "CANCELLED"),
    ],
)
def test_cancel_at_the_deadline_counts_as_expired_and_an_earlier_one_does_not(
    ran_s: float, remaining_s: float | None, code: str
) -> None:
    assert client_code(time.monotonic() - ran_s, remaining_s) == code


_REFUSALS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type)
    and issubclass(kind, errors.SwiftrecError)
    # Two of them end a start and not a call; the last one has no other reason.
    and kind not in {errors.SwiftrecError, errors.ConfigError, errors.ProviderError, errors.InternalError}
]


def test_every_rejection_has_a_code_and_a_reason() -> None:
    given: dict[type, tuple[Any, ...]] = {
        errors.InvalidRequest: ("field", "must be 1"),
        errors.InvalidInput: ("TEXT", "must be 1"),
        errors.Overloaded: (1.0,),
    }
    made = [kind(*given.get(kind, ())) for kind in _REFUSALS]
    assert len(made) > 10
    assert [error for error in made if log_reason(error)["reason"] == "internal error"] == []
    internal = code_of(errors.SwiftrecError())
    assert [error for error in made if code_of(error) == internal and not isinstance(error, errors.ModelFailed)] == []
    assert log_reason(errors.SwiftrecError())["reason"] == "internal error"
