"""Floats below the smallest normal one count as zero while a model runs.

The softmax of ONNX Runtime's CPU kernels gives a masked position exp(-88.4), which is no normal float any more, and a
core takes each product with it in microcode: one padded position makes a whole batch 3 to 6 % slower, half of them
padded up to 22 % (benchmarks/LOG.md). In a vector it is worth 1e-39, which is nothing.

It is a state of the thread: changed around a run and put back, so that nobody else's sums change. The threads of a
session's own pool get it by a session option (server/models/session.py).
"""

from __future__ import annotations

import ctypes
import platform
import struct
import sys

_Environment = ctypes.c_char * 32  # fenv_t of Linux on x86-64, glibc and musl alike
_MXCSR = 28  # where the register stands in it
_FLUSH = 0x8040  # results (bit 15) and operands (bit 6) that are denormal are zero


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


_LIBRARY = _library()
IS_SUPPORTED = _LIBRARY is not None


class Flushed:
    """`with Flushed():` denormals are zero in this thread; after it they are what they were before.

    Does nothing where not `IS_SUPPORTED`.
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


def _flushing(library: ctypes.PyDLL) -> ctypes.Array[ctypes.c_char]:
    """The floating-point environment of this thread, but with denormals flushed."""
    environment = _Environment()
    library.fegetenv(environment)
    (register,) = struct.unpack_from("<I", environment, _MXCSR)
    struct.pack_into("<I", environment, _MXCSR, register | _FLUSH)
    return environment


if _LIBRARY is not None:
    _FLUSHING = _flushing(_LIBRARY)
