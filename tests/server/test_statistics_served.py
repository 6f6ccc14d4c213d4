"""Statistics as Triton's extension defines them with a response cache, under requests of every kind."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from tritonclient.grpc import service_pb2 as triton
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from swiftrec.server.models.bundle import Bundle
from swiftrec.server.pb.swiftrec.v1.encoder_pb2 import EncodeRequest
from swiftrec.server.pb.swiftrec.v1.encoder_pb2_grpc import EncoderServiceStub
from swiftrec.server.pb.swiftrec.v1.recommender_pb2 import (
    BatchRecommendRequest,
    Event,
    RecommendRequest,
    StreamRecommendRequest,
)
from swiftrec.server.pb.swiftrec.v1.recommender_pb2_grpc import RecommenderServiceStub
from tests.server.secure import connected, serving
from tests.until import LONG

_MODELS = ("encoder", "recommender")
_TEXTS = ["war film", "love story in space"]


@pytest.fixture
def stub(bundle: Bundle) -> Iterator[grpc.Channel]:
    with serving(bundle) as app, connected(app) as channel:
        yield channel


def infer(name: str, rows: list[str], tensor: str = "TEXT") -> triton.ModelInferRequest:
    request = triton.ModelInferRequest(model_name=name)
    given = request.inputs.add(name=tensor, datatype="BYTES", shape=(len(rows), 1))
    given.contents.bytes_contents.extend(row.encode() for row in rows)
    return request


def counts_of(channel: grpc.Channel, model: str) -> triton.ModelStatistics:
    request = triton.ModelStatisticsRequest(name=model)
    return GRPCInferenceServiceStub(channel).ModelStatistics(request, timeout=LONG).model_stats[0]


def check_counts(counts: triton.ModelStatistics) -> None:
    """What holds in Triton for every model at any time, and what perf_analyzer computes its report from."""
    stats = counts.inference_stats
    assert stats.success.count == stats.cache_hit.count + stats.cache_miss.count
    assert stats.queue.count == stats.success.count
    assert stats.compute_input.count == stats.compute_infer.count == stats.compute_output.count
    assert stats.compute_infer.count == stats.cache_miss.count
    compute_ns = stats.compute_input.ns + stats.compute_infer.ns + stats.compute_output.ns
    assert stats.success.ns >= stats.queue.ns + compute_ns + stats.cache_hit.ns + stats.cache_miss.ns
    assert sum(size.batch_size * size.compute_infer.count for size in counts.batch_stats) == counts.inference_count
    assert sum(size.compute_infer.count for size in counts.batch_stats) == counts.execution_count


def test_requests_that_the_cache_answers_are_counted_as_with_tritons_response_cache(stub: grpc.Channel) -> None:
    client = GRPCInferenceServiceStub(stub)
    config = client.ModelConfig(triton.ModelConfigRequest(name="encoder"), timeout=LONG).config
    assert config.response_cache.enable
    for text in _TEXTS:
        client.ModelInfer(infer("encoder", [text]), timeout=LONG)
    before = counts_of(stub, "encoder")
    for n in range(20):  # as perf_analyzer does for as long as it measures
        client.ModelInfer(infer("encoder", [_TEXTS[n % 2]]), timeout=LONG)
    after = counts_of(stub, "encoder")
    check_counts(after)
    assert (before.inference_stats.cache_hit.count, before.inference_stats.cache_miss.count) == (0, 2)
    assert (after.inference_stats.cache_hit.count, after.inference_stats.cache_miss.count) == (20, 2)
    assert after.inference_stats.queue.count == before.inference_stats.queue.count + 20  # how it finds the version
    assert (after.inference_count, after.execution_count) == (before.inference_count, before.execution_count)
    assert after.inference_stats.cache_hit.ns > 0
    assert after.last_inference >= before.last_inference > 0


def test_a_list_of_texts_is_a_hit_only_if_all_of_them_are_cached(stub: grpc.Channel) -> None:
    client = GRPCInferenceServiceStub(stub)
    client.ModelInfer(infer("encoder", _TEXTS), timeout=LONG)
    client.ModelInfer(infer("encoder", [*_TEXTS, "a text that is new"]), timeout=LONG)
    client.ModelInfer(infer("encoder", _TEXTS), timeout=LONG)
    counts = counts_of(stub, "encoder")
    check_counts(counts)
    assert (counts.inference_stats.cache_hit.count, counts.inference_stats.cache_miss.count) == (1, 2)
    assert counts.inference_count == 3


def test_recommender_has_no_response_cache_and_counts_a_request_of_several_rows_once(stub: grpc.Channel) -> None:
    client = GRPCInferenceServiceStub(stub)
    config = client.ModelConfig(triton.ModelConfigRequest(name="recommender"), timeout=LONG).config
    assert not config.HasField("response_cache")
    for _ in range(3):
        client.ModelInfer(infer("recommender", _TEXTS, "QUERY"), timeout=LONG)
    counts = counts_of(stub, "recommender")
    check_counts(counts)
    assert (counts.inference_stats.success.count, counts.inference_count) == (3, 6)
    assert counts.inference_stats.cache_hit.ns == counts.inference_stats.cache_miss.ns == 0
    assert counts.inference_stats.compute_infer.ns > 0


def test_without_a_cache_every_request_is_a_miss(bundle: Bundle) -> None:
    with serving(bundle, cache_mb=0) as app, connected(app) as channel:
        client = GRPCInferenceServiceStub(channel)
        config = client.ModelConfig(triton.ModelConfigRequest(name="encoder"), timeout=LONG).config
        assert not config.HasField("response_cache")
        for _ in range(3):
            client.ModelInfer(infer("encoder", _TEXTS), timeout=LONG)
        counts = counts_of(channel, "encoder")
        check_counts(counts)
        assert (counts.inference_stats.cache_hit.count, counts.inference_stats.cache_miss.count) == (0, 3)
        assert counts.inference_count == 6


def test_counts_agree_under_requests_of_every_kind_at_once(stub: grpc.Channel) -> None:
    rng = random.Random(5)
    client, encoder, recommender = (
        GRPCInferenceServiceStub(stub),
        EncoderServiceStub(stub),
        RecommenderServiceStub(stub),
    )
    texts = [f"a text number {n} " + "word " * (n % 9) for n in range(24)]  # so few that most are hits or joined

    def one() -> RecommendRequest:
        history = [Event(item_id="50"), Event(text=rng.choice(texts))]
        return RecommendRequest(query=rng.choice([*texts, ""]), history=history[: rng.randrange(3)])

    def ask(kind: int) -> None:
        some = rng.sample(texts, rng.randrange(1, 9))
        if kind == 0:
            encoder.Encode(EncodeRequest(texts=some), timeout=LONG)
        elif kind == 1:
            client.ModelInfer(infer("encoder", some), timeout=LONG)
        elif kind == 2:
            recommender.BatchRecommend(BatchRecommendRequest(requests=[one() for _ in some]), timeout=LONG)
        elif kind == 3:
            client.ModelInfer(infer("recommender", some, "QUERY"), timeout=LONG)
        elif kind == 4:
            messages = (StreamRecommendRequest(request=one()) for _ in some)
            assert len(list(recommender.StreamRecommend(messages, timeout=LONG))) == len(some)
        else:
            with pytest.raises(grpc.RpcError):
                client.ModelInfer(infer("encoder", [*some, " "]), timeout=LONG)

    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(ask, [n % 6 for n in range(240)]):
            pass
    for model in _MODELS:
        counts = counts_of(stub, model)
        check_counts(counts)
        assert counts.inference_stats.success.count >= 80
    assert counts_of(stub, "encoder").inference_stats.cache_hit.count > 0
