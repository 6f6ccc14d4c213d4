"""The model repository and the statistics of Triton's clients."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2 as oip
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub
from tritonclient.utils import InferenceServerException

from swiftrec.server.app import App
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
from tests.server.support import bundles
from tests.server.support.apps import add_version, serving
from tests.server.support.secure import connected
from tests.server.support.secure import serving as serving_app
from tests.until import LONG

_ASKS: tuple[Callable[..., Any], ...] = (
    triton.InferenceServerClient.get_model_metadata,
    triton.InferenceServerClient.get_model_config,
    triton.InferenceServerClient.get_inference_statistics,
)


@contextmanager
def client_of(app: App) -> Iterator[Any]:
    with triton.InferenceServerClient(f"127.0.0.1:{app.port}") as client:
        yield client


@pytest.fixture(autouse=True)
def _no_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swiftrec.server.app.probe", lambda *_: None)  # test_swap has a test of it


def states(client: Any) -> dict[tuple[str, str], str]:  # noqa: ANN401 (tritonclient ships no types)
    return {(row.name, row.version): row.state for row in client.get_model_repository_index().models}


def ask(client: Any, name: str, version: str) -> Any:  # noqa: ANN401
    text = triton.InferInput("TEXT" if name.endswith("encoder") else "QUERY", [1, 1], "BYTES")
    text.set_data_from_numpy(np.array([["x"]], dtype=object))
    return client.infer(name, [text], model_version=version).get_response()


def refusal(call: Callable[..., Any], *args: Any, **options: Any) -> str:  # noqa: ANN401
    with pytest.raises(InferenceServerException) as caught:
        call(*args, **options)
    return str(caught.value)


def check_agreement(client: Any) -> None:  # noqa: ANN401
    """Readiness, metadata, configuration, statistics and inference of each name say what the index says."""
    rows = states(client)
    assert rows
    for (name, version), state in rows.items():
        is_ready = state == "READY"
        assert client.is_model_ready(name, version) == is_ready, name
        assert client.is_model_ready(name) == ("READY" in [s for (n, _), s in rows.items() if n == name])
        if is_ready:
            metadata, config = client.get_model_metadata(name, version), client.get_model_config(name, version).config
            counts = client.get_inference_statistics(name, version).model_stats
            assert metadata.name == config.name == name
            assert version in metadata.versions
            assert [(entry.name, entry.version) for entry in counts] == [(name, version)]
            answer = ask(client, name, version)
            assert (answer.model_name, answer.model_version) == (name, version)
            assert client.get_inference_statistics(name, version).model_stats[0].inference_stats.success.count > (
                counts[0].inference_stats.success.count
            )
        else:
            assert all("NOT_FOUND" in refusal(method, client, name, version) for method in _ASKS), name
            assert "NOT_FOUND" in refusal(ask, client, name, version)


def names_of(bundle: str) -> set[str]:
    return {bundle, f"{bundle}.encoder", f"{bundle}.recommender"}


def ready_names(client: Any) -> set[str]:  # noqa: ANN401
    return {name for (name, _), state in states(client).items() if state == "READY"}


def test_every_name_of_the_index_can_be_requested(bundle: Bundle, tmp_path: Path) -> None:
    home = tmp_path / "repository"
    for name, version in (("swapped", 1), ("swapped", 2), ("other", 5), ("third", 7), ("recommender", 1)):
        add_version(bundle, home, version, name)
    for folder in ("not a name", "empty", ".hidden"):
        (home / folder).mkdir()
    (home / "not a name" / "1").mkdir()
    (home / "swapped" / "0").mkdir()
    with serving([home / "swapped", home / "other"], home) as app, client_of(app) as client:
        assert {name for name, _ in states(client)} == {
            *names_of("swapped"),
            *("encoder", "recommender"),
            *names_of("other"),
            *names_of("third"),
            *("recommender.encoder", "recommender.recommender"),  # "recommender" is that of the default bundle
        }
        assert {version for name, version in states(client) if name == "encoder"} == {"1", "2"}
        check_agreement(client)
        for number, name in enumerate(sorted({name for name, _ in states(client)})):
            client.load_model(name)
            check_agreement(client)
            assert name in ready_names(client)
            if number % 3 == 0:
                client.unload_model(name)
                check_agreement(client)
                assert name not in ready_names(client)
                assert "failed to unload" in refusal(client.unload_model, name)


def test_models_of_a_bundle_are_loaded_and_unloaded_together(bundle: Bundle, tmp_path: Path) -> None:
    add_version(bundle, tmp_path, 1)
    add_version(bundle, tmp_path, 7, "third")
    with serving([tmp_path / "swapped"], tmp_path) as app, client_of(app) as client:
        for name in sorted(names_of("third")):
            client.load_model(name)
            assert names_of("third") <= ready_names(client)
            client.unload_model(name)
            assert not names_of("third") & ready_names(client)
        client.unload_model("encoder")
        assert ready_names(client) == set()
        assert not client.is_server_ready()
        check_agreement(client)
        client.load_model("recommender")
        assert ready_names(client) == {*names_of("swapped"), "encoder", "recommender"}


def test_pinned_bundle_keeps_its_name_and_version_when_its_folder_has_another_name(
    bundle: Bundle, tmp_path: Path
) -> None:
    folder = bundles.copy(bundle, tmp_path / "of-monday", light=True)
    bundles.seal(folder, 3, "pinned")
    with serving([folder]) as app, client_of(app) as client:
        check_agreement(client)
        assert set(states(client)) == {(name, "3") for name in (*names_of("pinned"), "encoder", "recommender")}
        client.unload_model("pinned")
        check_agreement(client)
        assert set(states(client).values()) == {"UNAVAILABLE"}
        bundles.replace(folder / "ranker.onnx", b"damaged")
        assert "ranker.onnx: truncated or changed" in refusal(client.load_model, "pinned")
        check_agreement(client)
        assert {version for _, version in states(client)} == {"3"}


def test_bundle_that_cannot_be_loaded_has_a_reason_and_unavailable_models(bundle: Bundle, tmp_path: Path) -> None:
    add_version(bundle, tmp_path, 1)
    bundles.seal(bundles.copy(bundle, tmp_path / "renamed" / "4", light=True), 4, "another")
    with serving([tmp_path / "swapped"], tmp_path) as app, client_of(app) as client:
        for name in sorted(names_of("renamed")):
            assert "contains bundle 'another', not 'renamed'" in refusal(client.load_model, name)
        check_agreement(client)
        rows = client.get_model_repository_index().models
        reasons = {row.name: row.reason for row in rows if row.state == "UNAVAILABLE"}
        assert set(reasons) == names_of("renamed")
        assert all("contains bundle 'another'" in reason for reason in reasons.values())


def test_models_are_controlled_as_in_the_example_of_triton(bundle: Bundle, tmp_path: Path) -> None:
    """The calls of NVIDIA's example client for model control, on a bundle with the name of its model, and another."""
    for name in ("simple", "second"):
        add_version(bundle, tmp_path, 1, name)
    with serving([tmp_path / "simple"], tmp_path) as app, client_of(app) as client:
        assert len(client.get_model_repository_index().models) == 8  # as many as the example expects
        client.load_model("simple")
        assert client.is_model_ready("simple")
        assert "failed to load" in refusal(client.load_model, "simple", config='"max_batch_size": {{"16"}}')
        assert client.get_model_config("simple").config.max_batch_size == 256
        client.load_model("simple", config='{"max_batch_size":"16"}')
        assert client.get_model_config("simple").config.max_batch_size == 16
        client.unload_model("simple")
        assert not client.is_model_ready("simple")
        files = {f"file:{'A' * 256}": b"a"}
        assert "failed to load" in refusal(client.load_model, "simple", config="{}", files=files)
        assert client.is_server_live()
        assert "failed to load" in refusal(client.load_model, "no_such_model")


def test_batch_size_of_a_load_applies_until_the_next_load(bundle: Bundle, tmp_path: Path) -> None:
    add_version(bundle, tmp_path, 1)
    rows = triton.InferInput("TEXT", [3, 1], "BYTES")
    rows.set_data_from_numpy(np.array([["x"], ["y"], ["z"]], dtype=object))
    with serving([tmp_path / "swapped"], tmp_path) as app, client_of(app) as client:
        client.load_model("swapped", config='{"max_batch_size": 2}')
        for name in ("encoder", "swapped.encoder"):
            assert client.get_model_config(name).config.max_batch_size == 2
            assert "must be 1..2" in refusal(client.infer, name, [rows])
        client.load_model("encoder", config="{}")
        assert client.get_model_config("encoder").config.max_batch_size == 256
        assert client.infer("encoder", [rows]).as_numpy("EMBEDDING").shape[0] == 3
        for config, said in (
            ('{"max_batch_size": 257}', "max_batch_size must be 1..256 (--max-entries), got 257"),
            ('{"max_batch_size": -1}', "max_batch_size must be 1..256 (--max-entries), got -1"),
            ('{"backend": "python"}', "can change max_batch_size, but not backend"),
        ):
            assert said in refusal(client.load_model, "swapped", config=config)
        assert client.get_model_config("encoder").config.max_batch_size == 256


_MODELS = ("encoder", "recommender")


_TEXTS = ["war film", "love story in space"]


@pytest.fixture
def stub(bundle: Bundle) -> Iterator[grpc.Channel]:
    with serving_app(bundle) as app, connected(app) as channel:
        yield channel


def infer(name: str, rows: list[str], tensor: str = "TEXT") -> oip.ModelInferRequest:
    request = oip.ModelInferRequest(model_name=name)
    given = request.inputs.add(name=tensor, datatype="BYTES", shape=(len(rows), 1))
    given.contents.bytes_contents.extend(row.encode() for row in rows)
    return request


def counts_of(channel: grpc.Channel, model: str) -> oip.ModelStatistics:
    request = oip.ModelStatisticsRequest(name=model)
    return GRPCInferenceServiceStub(channel).ModelStatistics(request, timeout=LONG).model_stats[0]


def check_counts(counts: oip.ModelStatistics) -> None:
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


def test_cache_hits_are_counted_as_by_the_response_cache_of_triton(stub: grpc.Channel) -> None:
    client = GRPCInferenceServiceStub(stub)
    config = client.ModelConfig(oip.ModelConfigRequest(name="encoder"), timeout=LONG).config
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


def test_request_of_several_texts_is_a_hit_only_when_all_are_cached(stub: grpc.Channel) -> None:
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
    config = client.ModelConfig(oip.ModelConfigRequest(name="recommender"), timeout=LONG).config
    assert not config.HasField("response_cache")
    for _ in range(3):
        client.ModelInfer(infer("recommender", _TEXTS, "QUERY"), timeout=LONG)
    counts = counts_of(stub, "recommender")
    check_counts(counts)
    assert (counts.inference_stats.success.count, counts.inference_count) == (3, 6)
    assert counts.inference_stats.cache_hit.ns == counts.inference_stats.cache_miss.ns == 0
    assert counts.inference_stats.compute_infer.ns > 0


def test_every_request_is_a_miss_without_a_cache(bundle: Bundle) -> None:
    with serving_app(bundle, cache_mb=0) as app, connected(app) as channel:
        client = GRPCInferenceServiceStub(channel)
        config = client.ModelConfig(oip.ModelConfigRequest(name="encoder"), timeout=LONG).config
        assert not config.HasField("response_cache")
        for _ in range(3):
            client.ModelInfer(infer("encoder", _TEXTS), timeout=LONG)
        counts = counts_of(channel, "encoder")
        check_counts(counts)
        assert (counts.inference_stats.cache_hit.count, counts.inference_stats.cache_miss.count) == (0, 3)
        assert counts.inference_count == 6


def test_counts_agree_under_concurrent_requests_of_every_kind(stub: grpc.Channel) -> None:
    rng = random.Random(5)
    client, encoder, recommender = (
        GRPCInferenceServiceStub(stub),
        EncoderServiceStub(stub),
        RecommenderServiceStub(stub),
    )
    texts = [f"a text number {n} " + "word " * (n % 9) for n in range(24)]  # so few that most are hits or joined

    def entry() -> RecommendRequest:
        history = [Event(item_id="50"), Event(text=rng.choice(texts))]
        return RecommendRequest(query=rng.choice([*texts, ""]), history=history[: rng.randrange(3)])

    def ask(kind: int) -> None:
        sample = rng.sample(texts, rng.randrange(1, 9))
        if kind == 0:
            encoder.Encode(EncodeRequest(texts=sample), timeout=LONG)
        elif kind == 1:
            client.ModelInfer(infer("encoder", sample), timeout=LONG)
        elif kind == 2:
            recommender.BatchRecommend(BatchRecommendRequest(requests=[entry() for _ in sample]), timeout=LONG)
        elif kind == 3:
            client.ModelInfer(infer("recommender", sample, "QUERY"), timeout=LONG)
        elif kind == 4:
            messages = (StreamRecommendRequest(request=entry()) for _ in sample)
            assert len(list(recommender.StreamRecommend(messages, timeout=LONG))) == len(sample)
        else:
            with pytest.raises(grpc.RpcError):
                client.ModelInfer(infer("encoder", [*sample, " "]), timeout=LONG)

    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(ask, [n % 6 for n in range(240)]):
            pass
    for model in _MODELS:
        counts = counts_of(stub, model)
        check_counts(counts)
        assert counts.inference_stats.success.count >= 80
    assert counts_of(stub, "encoder").inference_stats.cache_hit.count > 0
