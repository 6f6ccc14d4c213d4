"""Times of a request never exceed what it took, and a batch is in all metrics that count it or in none."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swiftrec.server.batching.scheduler import Limits
from swiftrec.server.pb.swiftrec.v1 import encoder_pb2
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from swiftrec.server.telemetry.metrics import BundleRecorder, Metrics, Statistics
from swiftrec.server.ticket import Reply, Ticket
from tests.server import small
from tests.server.workers import BATCH_RECOMMEND, ENCODE, RECOMMEND, SmallEngine

_SLACK_NS = 1_000  # each figure is rounded to whole ns


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> SmallEngine:
    made = SmallEngine(small.write_bundle(tmp_path_factory.mktemp("small") / "1"), cache_bytes=2_000)
    made.encoder.row_s, made.ranker.row_s = 1 / 64, 1 / 128
    return made


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
    jobs=st.integers(1, 6),
)
def test_queue_and_compute_are_never_more_than_the_request(
    one: SmallEngine, calls: list[tuple[str, list[int], float]], jobs: int
) -> None:
    counts = [recorder.statistics for recorder in one.engine.recorder.models.values()]
    replies, worker = list[Reply](), one.worker(Limits(jobs=jobs))
    before = [(each.success_ns, each.queue_ns, each.compute_ns, each.success) for each in counts]
    for method, numbers, pause_s in calls:
        worker.admit(Ticket(method, message(method, numbers), 1e9, replies.append))
        one.clock.now += pause_s
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
    asked = {ENCODE: 0, RECOMMEND: 0, BATCH_RECOMMEND: 0}
    for method, numbers, _ in calls:
        asked[method] += len(numbers) if method == BATCH_RECOMMEND else 1
    found = [each.success - succeeded for each, (*_, succeeded) in zip(counts, before, strict=True)]
    assert found == [asked[ENCODE], asked[RECOMMEND] + asked[BATCH_RECOMMEND]]


def test_request_of_several_texts_counts_once_with_its_longest_batch(one: SmallEngine) -> None:
    model = one.engine.recorder.models["encoder"]
    before = model.snapshot()
    worker = one.worker(Limits(jobs=2))
    worker.admit(Ticket(ENCODE, message(ENCODE, [900, 901, 902]), 1e9, lambda _reply: None))
    one.clock.now += 1.0
    while worker.has_work:
        worker.step()
    after = model.snapshot()
    assert after.success - before.success == 1
    assert (after.queue_ns - before.queue_ns) / 1e9 == pytest.approx(1.0)
    assert (after.compute_ns - before.compute_ns) / 1e9 == pytest.approx(2 / 64)
    assert (after.success_ns - before.success_ns) / 1e9 == pytest.approx(1.0 + 3 / 64)


def test_hits_and_misses_are_the_successes() -> None:
    counts = Statistics()
    counts.succeeded(3.0, 1.0, 0.5)
    counts.succeeded(1.0, 0.75, 0.0, was_cached=True)
    counts.failed(7.0)
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
def test_every_metric_of_a_batch_is_made_of_its_one_record(
    batches: list[tuple[int, int, int, int]], threads: int
) -> None:
    metrics = Metrics()
    recorder = BundleRecorder(metrics, "b", 1)
    metrics.bundles = lambda: [recorder]
    model = recorder.models["encoder"]

    def run() -> None:
        for rows, tokens, padding, ms in batches:
            model.ran(rows, tokens, tokens + padding, ms / 1e3)

    with ThreadPoolExecutor(threads) as pool:
        for future in [pool.submit(run) for _ in range(threads)]:
            future.result()
    page, statistics = samples(metrics), model.snapshot()
    executions, inferences = threads * len(batches), threads * sum(rows for rows, *_ in batches)
    for name in ("swiftrec_batch_jobs", "swiftrec_batch_tokens", "swiftrec_padding_ratio"):
        assert page[f"{name}_count"] == executions
    assert page["nv_inference_exec_count 1"] == statistics.executions == executions
    assert page["nv_inference_count 1"] == page["swiftrec_batch_jobs_sum"] == statistics.inferences == inferences
    assert page["swiftrec_batch_tokens_sum"] == threads * sum(tokens + padding for _, tokens, padding, _ in batches)
    seconds = sum(size.compute_ns for size in statistics.sizes.values()) / 1e9
    assert page["swiftrec_session_busy_seconds_total"] == pytest.approx(seconds, abs=1e-6)


def test_figures_of_one_page_are_all_of_one_moment() -> None:
    metrics = Metrics()
    recorder = BundleRecorder(metrics, "b", 1)
    metrics.bundles = lambda: [recorder]
    model = recorder.models["encoder"]

    def answer() -> None:
        model.ran(2, 8, 10, 1e-3)
        model.statistics.succeeded(2e-3, 1e-3, 1e-3)
        model.statistics.succeeded(1e-3, 0.0, 0.0, was_cached=True)

    answer()
    page = samples(metrics, meanwhile=answer)
    assert page["swiftrec_batch_jobs_count"] == page["swiftrec_padding_ratio_count"] == 1
    assert page["nv_inference_exec_count 1"] == 1
    assert page["swiftrec_session_busy_seconds_total"] == pytest.approx(1e-3)
    assert page["nv_inference_request_success 1"] == (
        page["nv_cache_num_hits_per_model 1"] + page["nv_cache_num_misses_per_model 1"]
    )
    assert page["nv_inference_request_duration_us 1"] >= (
        page["nv_inference_queue_duration_us 1"] + page["nv_inference_compute_infer_duration_us 1"]
    )


def test_bundle_keeps_the_batches_of_unloaded_versions_and_a_version_begins_at_zero() -> None:
    metrics = Metrics()
    old, new = BundleRecorder(metrics, "b", 1), BundleRecorder(metrics, "b", 2)
    for recorder in (old, new, old):
        recorder.models["encoder"].ran(4, 8, 10, 1e-3)
    del old, recorder
    metrics.bundles = lambda: [new]
    page = samples(metrics)
    assert page["swiftrec_batch_jobs_count"] == 3
    assert page["nv_inference_exec_count 2"] == 1
    assert not any(name.endswith(" 1") for name in page)
