"""Imports ONNX Runtime while the process may use all its CPUs.

On import, ONNX Runtime tests whether the AMX tiles of a thread survive a move to another CPU. With only one CPU it
cannot test this and disables AMX, which makes int8 products 1.4 times slower (benchmarks/LOG.md). To avoid this for a
server that is pinned to one core (`taskset -c 3`), the affinity is widened during the import, as far as the cpuset
allows. Always import `onnxruntime` from this module.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import numpy as np  # noqa: F401 (first: the threads of its BLAS stay on the original cores)

_ALL_CPUS = range(1_024)  # Linux ignores those that do not exist or are not allowed


@contextmanager
def widened_affinity() -> Iterator[None]:
    """If this thread is restricted to one CPU, let it run on all allowed CPUs until the end of the block."""
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    is_wide = len(before) == 1 and _move(_ALL_CPUS)
    try:
        yield
    finally:
        if is_wide:
            _move(before)


def _move(cpus: Collection[int]) -> bool:
    """Set the CPUs of this thread; False if that is not permitted."""
    try:
        os.sched_setaffinity(0, cpus)
    except OSError:  # a container may forbid it: only AMX is lost
        return False
    return True


with widened_affinity():
    import onnxruntime

__all__ = ["onnxruntime"]
