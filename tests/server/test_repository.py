"""The model repository of Triton's clients: every name in its index can be asked for, and all answers agree."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from swiftrec.server.app import App
from swiftrec.server.models.bundle import Bundle
from tests.server import bundles
from tests.server.test_swap import add_version, serving

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
            assert [(one.name, one.version) for one in counts] == [(name, version)]
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


def test_every_name_of_the_index_can_be_asked_for(bundle: Bundle, tmp_path: Path) -> None:
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


def test_names_of_a_bundle_are_loaded_and_unloaded_together(bundle: Bundle, tmp_path: Path) -> None:
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


def test_pinned_bundle_keeps_its_name_and_version_whatever_its_folder_is_called(bundle: Bundle, tmp_path: Path) -> None:
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


def test_bundle_that_cannot_be_loaded_says_why_and_its_names_stay_unavailable(bundle: Bundle, tmp_path: Path) -> None:
    add_version(bundle, tmp_path, 1)
    bundles.seal(bundles.copy(bundle, tmp_path / "wanted" / "4", light=True), 4, "another")
    with serving([tmp_path / "swapped"], tmp_path) as app, client_of(app) as client:
        for name in sorted(names_of("wanted")):
            assert "holds bundle 'another', not 'wanted'" in refusal(client.load_model, name)
        check_agreement(client)
        rows = client.get_model_repository_index().models
        reasons = {row.name: row.reason for row in rows if row.state == "UNAVAILABLE"}
        assert set(reasons) == names_of("wanted")
        assert all("holds bundle 'another'" in reason for reason in reasons.values())


def test_models_are_controlled_as_by_tritons_example(bundle: Bundle, tmp_path: Path) -> None:
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


def test_batch_size_of_a_load_counts_until_the_next_load(bundle: Bundle, tmp_path: Path) -> None:
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
