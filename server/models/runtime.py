"""ONNX Runtime, imported with every CPU that this process could use.

While it is imported, it tries whether a thread's AMX tiles survive a move from one CPU to another. Where there is only
one CPU it cannot, and does without AMX from then on: int8 products take 1.4 times as long (benchmarks/LOG.md). A server
that was pinned to one core (`taskset -c 3`) is such a place, though AMX works there; so the import may use the others
for a moment. What a cpuset forbids stays forbidden. Import `onnxruntime` from here, wherever it may be the first time.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import numpy as np  # noqa: F401 (before: the threads that its BLAS starts stay on the core that they are given)

_CPUS = range(1_024)  # those that are not there, or are not allowed, are left out by Linux


@contextmanager
def every_cpu() -> Iterator[None]:
    """This thread, if it is on one CPU only, may meanwhile run on each that the system allows it."""
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    is_wide = len(before) == 1 and _move(_CPUS)
    try:
        yield
    finally:
        if is_wide:
            _move(before)


def _move(cpus: Collection[int]) -> bool:
    """Whether this thread may from now on run on these."""
    try:
        os.sched_setaffinity(0, cpus)
    except OSError:  # a container may forbid it: then there is no AMX, and nothing else is lost
        return False
    return True


with every_cpu():
    import onnxruntime

__all__ = ["onnxruntime"]
