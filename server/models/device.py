"""The table of devices: everything in server and export that depends on one.

CUDA and TensorRT have not been run: this follows ONNX Runtime's documentation and is tested without a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from swiftrec.server.errors import ProviderError

DeviceName = Literal["cpu", "cuda", "tensorrt"]
Provider = tuple[str, dict[str, str]]
_CPU, _CUDA, _TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"


@dataclass(frozen=True, slots=True)
class Device:
    """What depends on a device.

    Args:
        providers: of ONNX Runtime, starting with the one that must run the model.
        package: the package that has these providers.
        extra: the extra of swiftrec that installs this package.
        memory: ONNX Runtime's name of the device memory to which inputs and outputs are bound; empty if the device
            computes in host memory on the CPU's cores.
        graphs: the kinds of encoder graph that the export makes for this device and no other: precisions, or "trt".
        default_of: the device whose default variant it runs; None if the export chooses a default for it.
        batch_tokens: padded tokens of a batch, unless tuned or set.
    """

    providers: tuple[str, ...]
    package: str
    extra: str
    memory: str = ""
    graphs: tuple[str, ...] = ()
    default_of: str | None = None
    batch_tokens: int = 16_384

    @property
    def uses_cores(self) -> bool:
        """Whether it computes on the CPU's cores, so that several sessions share them."""
        return not self.memory


DEVICES: Mapping[str, Device] = {
    "cpu": Device((_CPU,), "onnxruntime", "cpu", graphs=("fp32", "int8"), batch_tokens=1_024),
    "cuda": Device((_CUDA,), "onnxruntime-gpu", "gpu", memory="cuda", graphs=("fp16",)),
    "tensorrt": Device((_TENSORRT, _CUDA), "onnxruntime-gpu", "gpu", memory="cuda", graphs=("trt",), default_of="cuda"),
}
"""The devices by name; one for each name in `DeviceName`."""


def device_of_graph(graph: str) -> str:
    """The device that a kind of encoder graph, such as "fp16", is made for."""
    return next(name for name, device in DEVICES.items() if graph in device.graphs)


def devices_with_default() -> list[str]:
    """The devices for which the export chooses a default variant."""
    return [name for name, device in DEVICES.items() if device.default_of is None]


def choose_providers(device: str, available: Sequence[str], cache: Path) -> list[Provider]:
    """The providers of `device`, starting with the one that must run the model; TensorRT stores engines in `cache`.

    TensorRT loads engines from `cache` without a check, so only users who may replace the bundle may write there.
    Operators that TensorRT does not support (the fused ones; see `--tensorrt` of the export) run on CUDA.

    Raises:
        ProviderError: this ONNX Runtime lacks one of them.
    """
    needed = DEVICES[device]
    for name in needed.providers:
        if name not in available:
            others = sorted({other.package for other in DEVICES.values()} - {needed.package})
            raise ProviderError(
                f"device {device} needs {name}, which this onnxruntime does not have: pip uninstall "
                f"{' '.join(others)}, then pip install 'swiftrec[{needed.extra}]'"
            )
    return [(name, _options(name, cache)) for name in needed.providers]


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
