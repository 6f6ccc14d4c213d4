"""An ONNX Runtime session on the device that was asked for, or an error."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from server.errors import BundleError
from server.models.denormals import Flushed
from server.models.providers import check_providers, choose_providers
from server.models.runtime import onnxruntime


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
        with Flushed():
            result: NDArray[np.float32] = self._session.run(None, feeds)[0]
        return result


class BoundSession(OnnxSession):
    """The same with inputs and output bound to the device's memory, and one copy back when the run has ended.

    For CUDA and TensorRT; never run on a GPU, tested with a session on CPU.
    """

    def __init__(self, session: onnxruntime.InferenceSession, memory: str = "cuda") -> None:
        super().__init__(session)
        self._memory, self._output = memory, session.get_outputs()[0].name

    def run(self, feeds: dict[str, NDArray[np.generic]]) -> NDArray[np.float32]:
        """Run the model."""
        binding = self._session.io_binding()  # one for each run: threads share the session
        for name, array in feeds.items():
            binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array, self._memory, 0))
        binding.bind_output(self._output, self._memory, 0)
        self._session.run_with_iobinding(binding)
        result: NDArray[np.float32] = binding.copy_outputs_to_cpu()[0]
        return result


def open_session(path: Path, device: str = "cpu", threads: int = 1, /) -> OnnxSession:
    """Load the model at `path` to run on `device` with `threads` threads inside an operator.

    Raises:
        ProviderError: ONNX Runtime would run it elsewhere.
        BundleError: the file is no model.
    """
    cache = path.parent.parent / ".tensorrt"  # beside the bundle: a bundle holds nothing but what its manifest names
    providers = choose_providers(device, onnxruntime.get_available_providers(), cache)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # spinning starves the other core's work
    options.add_session_config_entry("session.set_denormal_as_zero", "1")  # for the threads of its pool
    try:
        with Flushed():  # the first session of a process would leave this thread so
            session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:
        raise BundleError(f"{path}: ONNX Runtime cannot load it ({error})") from error
    check_providers(path.name, providers, session.get_providers())
    return OnnxSession(session) if device == "cpu" else BoundSession(session)
