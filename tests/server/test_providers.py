"""Devices: the right providers with the right options, and no silent fallback. None of this runs on a GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, save

from swiftrec.server.errors import ProviderError
from swiftrec.server.models.providers import check_providers, choose_providers
from swiftrec.server.models.session import BoundSession, OnnxSession, open_session

_CPU, _CUDA, _TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
_ALL = [_TENSORRT, _CUDA, _CPU]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Doubles `x`."""
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 2]) for n in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "double", [x], [y])
    path = tmp_path / "1" / "double.onnx"
    path.parent.mkdir()
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize(("device", "wanted"), [("cpu", [_CPU]), ("cuda", [_CUDA]), ("tensorrt", [_TENSORRT, _CUDA])])
def test_device_gets_its_providers_in_order(device: str, wanted: list[str]) -> None:
    assert [name for name, _ in choose_providers(device, _ALL, Path("cache"))] == wanted


def test_tensorrt_runs_in_fp16_and_keeps_its_engines() -> None:
    options = dict(choose_providers("tensorrt", _ALL, Path("cache")))[_TENSORRT]
    assert options["trt_fp16_enable"] == options["trt_engine_cache_enable"] == "True"
    assert options["trt_engine_cache_path"] == "cache"


@pytest.mark.parametrize(
    ("device", "available", "lacking"),
    [("cuda", [_CPU], _CUDA), ("tensorrt", [_CUDA, _CPU], _TENSORRT), ("tensorrt", [_TENSORRT, _CPU], _CUDA)],
)
def test_provider_that_is_not_built_in_is_named(device: str, available: list[str], lacking: str) -> None:
    with pytest.raises(ProviderError, match=f"device {device} needs {lacking}.*pip install 'swiftrec\\[gpu\\]'"):
        choose_providers(device, available, Path("cache"))


def test_what_was_asked_for_passes() -> None:
    asked = choose_providers("tensorrt", _ALL, Path("cache"))
    check_providers("encoder.onnx", asked, _ALL)


@pytest.mark.parametrize("got", [[_CPU], [_CUDA, _CPU], [_TENSORRT, _CPU], []])
def test_fallback_is_refused(got: list[str]) -> None:
    asked = choose_providers("tensorrt", _ALL, Path("cache"))
    with pytest.raises(ProviderError, match=r"encoder.onnx: asked for \w+, ONNX Runtime chose \w+"):
        check_providers("encoder.onnx", asked, got)


def test_session_that_falls_back_in_silence_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here ONNX Runtime really falls back: it has no CUDA, is told that it had, and opens the model on the CPU."""
    if _CUDA in onnxruntime.get_available_providers():
        pytest.skip("this machine has the CUDA provider")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: _ALL)
    refused = pytest.raises(ProviderError, match=f"double.onnx: asked for {_CUDA}, ONNX Runtime chose {_CPU}")
    with pytest.warns(UserWarning, match="not in available provider"), refused:
        open_session(model, "cuda")


def test_bound_session_answers_as_the_plain_one(model: Path) -> None:
    session = onnxruntime.InferenceSession(str(model), providers=[_CPU])
    bound, plain = BoundSession(session, "cpu"), OnnxSession(session)
    for rows in (1, 3):
        feeds: dict[str, NDArray[np.generic]] = {"x": np.random.default_rng(rows).random((rows, 2), dtype=np.float32)}
        assert np.array_equal(bound.run(feeds), plain.run(feeds))
    assert bound.inputs == ["x"]
