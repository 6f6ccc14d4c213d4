"""Devices and what ONNX Runtime calls them: which providers a device needs, with which options, and that it got them.

CUDA and TensorRT were never run: this was written from ONNX Runtime's documentation and is tested without a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from swiftrec.server.errors import ProviderError

Provider = tuple[str, dict[str, str]]

_CPU, _CUDA, _TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
_NEEDED: dict[str, tuple[str, ...]] = {"cpu": (_CPU,), "cuda": (_CUDA,), "tensorrt": (_TENSORRT, _CUDA)}


def choose_providers(device: str, available: Sequence[str], cache: Path) -> list[Provider]:
    """The providers for `device`, first the one that must run the model; engines that TensorRT builds go to `cache`.

    TensorRT loads engines from `cache` without a check, so only those who may replace the bundle may write there.
    What TensorRT cannot take (the fused operators; see `--tensorrt` of the export) runs on CUDA beside it.

    Raises:
        ProviderError: this ONNX Runtime does not have one of them.
    """
    for name in _NEEDED[device]:
        if name not in available:
            other, extra = ("onnxruntime-gpu", "cpu") if device == "cpu" else ("onnxruntime", "gpu")
            raise ProviderError(
                f"device {device} needs {name}, which this onnxruntime does not have: pip uninstall {other}, then "
                f"pip install 'swiftrec[{extra}]'"
            )
    return [(name, _options(name, cache)) for name in _NEEDED[device]]


def check_providers(model: str, asked: Sequence[Provider], got: Sequence[str]) -> None:
    """ONNX Runtime falls back to the CPU in silence when a provider cannot start; that is an error here.

    Raises:
        ProviderError: the first provider that was asked for is not the first that the session has.
    """
    for (name, _), found in zip(asked, [*got, *[""] * len(asked)], strict=False):
        if name != found:
            raise ProviderError(f"{model}: asked for {name}, ONNX Runtime chose {found or 'nothing'}")


def _options(name: str, cache: Path) -> dict[str, str]:
    if name == _CUDA:
        return {"arena_extend_strategy": "kSameAsRequested"}  # shapes differ: doubling would keep memory nobody uses
    if name == _TENSORRT:
        return {
            "trt_fp16_enable": "True",
            "trt_engine_cache_enable": "True",
            "trt_engine_cache_path": str(cache),
            "trt_timing_cache_enable": "True",
            "trt_timing_cache_path": str(cache),
        }
    return {}
