"""Devices: the ONNX Runtime providers of each, their options, and a check that the session uses them.

CUDA and TensorRT have not been run: this follows ONNX Runtime's documentation and is tested without a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from swiftrec.server.errors import ProviderError

Provider = tuple[str, dict[str, str]]

_CPU, _CUDA, _TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
_NEEDED: dict[str, tuple[str, ...]] = {"cpu": (_CPU,), "cuda": (_CUDA,), "tensorrt": (_TENSORRT, _CUDA)}


def choose_providers(device: str, available: Sequence[str], cache: Path) -> list[Provider]:
    """The providers of `device`, starting with the one that must run the model; TensorRT stores engines in `cache`.

    TensorRT loads engines from `cache` without a check, so only users who may replace the bundle may write there.
    Operators that TensorRT does not support (the fused ones; see `--tensorrt` of the export) run on CUDA.

    Raises:
        ProviderError: this ONNX Runtime lacks one of them.
    """
    for name in _NEEDED[device]:
        if name not in available:
            other, extra = ("onnxruntime-gpu", "cpu") if device == "cpu" else ("onnxruntime", "gpu")
            raise ProviderError(
                f"device {device} needs {name}, which this onnxruntime does not have: pip uninstall {other}, then "
                f"pip install 'swiftrec[{extra}]'"
            )
    return [(name, _options(name, cache)) for name in _NEEDED[device]]


def check_providers(model: str, requested: Sequence[Provider], got: Sequence[str]) -> None:
    """Check the providers of a session: ONNX Runtime silently falls back to the CPU if a provider cannot start.

    Raises:
        ProviderError: the session does not use the requested providers.
    """
    for (name, _), actual in zip(requested, [*got, *[""] * len(requested)], strict=False):
        if name != actual:
            raise ProviderError(f"{model}: asked for {name}, ONNX Runtime chose {actual or 'nothing'}")


def _options(name: str, cache: Path) -> dict[str, str]:
    if name == _CUDA:
        return {"arena_extend_strategy": "kSameAsRequested"}  # shapes vary: doubling would waste memory
    if name == _TENSORRT:
        return {
            "trt_fp16_enable": "True",
            "trt_engine_cache_enable": "True",
            "trt_engine_cache_path": str(cache),
            "trt_timing_cache_enable": "True",
            "trt_timing_cache_path": str(cache),
        }
    return {}
