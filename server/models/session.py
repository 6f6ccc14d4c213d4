"""ONNX Runtime sessions, which run on the requested device or raise an error."""

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
from swiftrec.server.models.device import DEVICES, check_providers, choose_providers
from swiftrec.server.models.runtime import onnxruntime

_Environment = ctypes.c_char * 32  # fenv_t of Linux on x86-64, glibc and musl alike
_MXCSR_OFFSET = 28  # of the MXCSR register in it
_FTZ_DAZ = 0x8040  # flush denormal results (bit 15) and operands (bit 6) to zero


class Session(Protocol):
    """Runs a model: named inputs, first output."""

    def run(self, feeds: dict[str, NDArray[np.generic]], /) -> NDArray[np.float32]:
        """Run the model."""


class OnnxSession:
    """One model: named inputs, first output. Threads may share it."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self.inputs: list[str] = [i.name for i in session.get_inputs()]

    def run(self, feeds: dict[str, NDArray[np.generic]]) -> NDArray[np.float32]:
        """Run the model."""
        with FlushDenormals():
            result: NDArray[np.float32] = self._session.run(None, feeds)[0]
        return result


class IoBindingSession(OnnxSession):
    """A session whose inputs and output are bound to device memory, with one copy to the host after a run.

    For devices whose entry in `DEVICES` names a memory. Not yet run on a GPU; tested with a session on CPU.

    Args:
        session: the model.
        memory: ONNX Runtime's name of the memory, such as "cuda".
    """

    def __init__(self, session: onnxruntime.InferenceSession, memory: str) -> None:
        super().__init__(session)
        self._memory, self._output = memory, session.get_outputs()[0].name

    def run(self, feeds: dict[str, NDArray[np.generic]]) -> NDArray[np.float32]:
        """Run the model."""
        binding = self._session.io_binding()  # one for each run, since threads share the session
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
        BundleError: the file is not a valid model.
    """
    cache = path.parent.parent / ".tensorrt"  # outside the bundle, which contains only the files of its manifest
    providers = choose_providers(device, onnxruntime.get_available_providers(), cache)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry(
        "session.intra_op.allow_spinning", "0"
    )  # spinning would take CPU from the other threads
    options.add_session_config_entry("session.set_denormal_as_zero", "1")  # in the threads of its pool
    try:
        with FlushDenormals():  # the first session of a process changes the state of this thread
            session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:
        raise BundleError(f"{path}: ONNX Runtime cannot load it ({error})") from error
    check_providers(path.name, providers, session.get_providers())
    memory = DEVICES[device].memory
    return IoBindingSession(session, memory) if memory else OnnxSession(session)


class FlushDenormals:
    """Context manager: until the end of the block, denormal floats count as zero in this thread.

    The softmax of ONNX Runtime's CPU kernels gives a masked position exp(-88.4), a denormal number, and CPUs multiply
    denormals in slow microcode: one padded position makes a whole batch 3 to 6 % slower, 50 % padding up to 22 %
    (benchmarks/LOG.md). The effect on results is about 1e-39. Only the state of this thread is changed; threads of a
    session's pool are configured by a session option. Does nothing unless `IS_SUPPORTED`.
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
    """The library with `fegetenv` and `fesetenv`; None if this platform is not supported."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return None  # other CPUs are not affected
    for name in (None, "libm.so.6"):
        try:
            library = ctypes.PyDLL(name)  # keeps the GIL: cheaper for such short calls
            library.fegetenv.argtypes = library.fesetenv.argtypes = [_Environment]
        except (OSError, AttributeError):
            continue
        return library
    return None


def _flushing(library: ctypes.PyDLL) -> ctypes.Array[ctypes.c_char]:
    """The floating-point environment of this thread, but with denormals flushed."""
    environment = _Environment()
    library.fegetenv(environment)
    (register,) = struct.unpack_from("<I", environment, _MXCSR_OFFSET)
    struct.pack_into("<I", environment, _MXCSR_OFFSET, register | _FTZ_DAZ)
    return environment


_LIBRARY = _library()
IS_SUPPORTED = _LIBRARY is not None
if _LIBRARY is not None:
    _FLUSHING = _flushing(_LIBRARY)
