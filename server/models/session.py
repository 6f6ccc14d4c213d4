"""An ONNX Runtime session on the device that was asked for, or an error."""

from __future__ import annotations

import ctypes
import platform
import struct
import sys
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from swiftrec.server.errors import BundleError
from swiftrec.server.models.providers import check_providers, choose_providers
from swiftrec.server.models.runtime import onnxruntime

_Environment = ctypes.c_char * 32  # fenv_t of Linux on x86-64, glibc and musl alike
_MXCSR = 28  # where the register stands in it
_FLUSH = 0x8040  # results (bit 15) and operands (bit 6) that are denormal are zero


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


class Flushed:
    """`with Flushed():` floats below the smallest normal one count as zero in this thread; after it as before.

    The softmax of ONNX Runtime's CPU kernels gives a masked position exp(-88.4), which is no normal float any more, and
    a core takes each product with it in microcode: one padded position makes a whole batch 3 to 6 % slower, half of
    them padded up to 22 % (benchmarks/LOG.md). In a vector it is worth 1e-39, which is nothing. Only the thread's state
    is changed; the threads of a session's own pool get it by a session option. Does nothing where not `IS_SUPPORTED`.
    """

    __slots__ = ("_before",)

    def __enter__(self) -> None:
        if _LIBRARY is not None:
            self._before = _Environment()
            _LIBRARY.fegetenv(self._before)
            _LIBRARY.fesetenv(_FLUSHING)

    def __exit__(self, *_: object) -> None:
        if _LIBRARY is not None:
            _LIBRARY.fesetenv(self._before)


def _library() -> ctypes.PyDLL | None:
    """What has `fegetenv` and `fesetenv`; None where they are not those that are meant here."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return None  # other cores take denormals as they come
    for name in (None, "libm.so.6"):
        try:
            library = ctypes.PyDLL(name)  # keeps the interpreter: to let go of it would take longer
            library.fegetenv.argtypes = library.fesetenv.argtypes = [_Environment]
        except (OSError, AttributeError):
            continue
        return library
    return None


def _flushing(library: ctypes.PyDLL) -> ctypes.Array[ctypes.c_char]:
    """The floating-point environment of this thread, but with denormals flushed."""
    environment = _Environment()
    library.fegetenv(environment)
    (register,) = struct.unpack_from("<I", environment, _MXCSR)
    struct.pack_into("<I", environment, _MXCSR, register | _FLUSH)
    return environment


_LIBRARY = _library()
IS_SUPPORTED = _LIBRARY is not None
if _LIBRARY is not None:
    _FLUSHING = _flushing(_LIBRARY)
