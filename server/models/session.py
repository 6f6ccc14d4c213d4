"""An ONNX Runtime session on the device that was asked for, or an error."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from server.errors import BundleError, ProviderError

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class Session(Protocol):
    """What runs a model: named arrays in, the first output out."""

    def run(self, feeds: dict[str, NDArray[np.generic]], /) -> NDArray[np.float32]:
        """Run the model."""


class OnnxSession:
    """One model: named arrays in, the first output out. May be run from several threads at once."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self.inputs: list[str] = [i.name for i in session.get_inputs()]

    def run(self, feeds: dict[str, NDArray[np.generic]]) -> NDArray[np.float32]:
        """Run the model."""
        result: NDArray[np.float32] = self._session.run(None, feeds)[0]
        return result


def open_session(path: Path, device: str = "cpu", threads: int = 1, /) -> OnnxSession:
    """Load the model at `path` to run on `device` with `threads` threads inside an operator.

    Raises:
        ProviderError: ONNX Runtime would run it elsewhere.
        BundleError: the file is no model.
    """
    wanted = _PROVIDERS[device]
    if wanted not in onnxruntime.get_available_providers():
        raise ProviderError(
            f"device {device} needs {wanted}, which this onnxruntime does not have: make setup DEVICE={device}"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # spinning starves the other core's work
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=[wanted])
    except Exception as error:
        raise BundleError(f"{path}: ONNX Runtime cannot load it ({error})") from error
    if session.get_providers()[0] != wanted:
        raise ProviderError(f"{path.name}: asked for {wanted}, ONNX Runtime chose {session.get_providers()[0]}")
    return OnnxSession(session)
