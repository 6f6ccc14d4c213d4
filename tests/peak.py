"""The most memory that a call holds, as Python and NumPy count it, or as the system does."""

from __future__ import annotations

import ctypes
import gc
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path


def peak_of(call: Callable[[], object]) -> int:
    """Bytes that were held at most while it ran, beyond those before."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def resident_peak_of(call: Callable[[], object]) -> int:
    """Bytes of the process that were resident at most while it ran, beyond those before (proc(5), VmHWM)."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed before would hide what the call takes
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _status_bytes("VmRSS")
    call()
    return _status_bytes("VmHWM") - before


def _status_bytes(name: str) -> int:
    match = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    assert match
    return 1_024 * int(match[1])
