"""The threads of PyTorch's operators, settled in the environment before torch is imported: later is too late.

An operator splits its work over the cores and waits for the slowest part. By default OpenMP waits in a loop, for up to
milliseconds. If another process holds one of two cores, the looping thread keeps the other core from the thread that it
waits for: beside a single busy process, training used 2 to 12 times its CPU time. A loop of some microseconds before
the thread sleeps is as fast on a quiet machine (`swiftrec bench contention`, benchmarks/LOG.md).
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping

from swiftrec.server.tuning.cores import usable_cores

_SPIN_COUNT = "2000"  # rounds of the waiting loop of libgomp, which PyTorch's wheels bring


def prepare_threads() -> None:
    """Settle the threads of this process.

    Raises:
        RuntimeError: torch was imported before: OpenMP has already read its variables.
    """
    if "torch" in sys.modules:
        raise RuntimeError("prepare_threads() must be called before torch is imported")
    choose_threads(os.environ)


def choose_threads(environment: MutableMapping[str, str]) -> None:
    """One thread for each usable core, and short waiting loops; what the user has set stays."""
    environment.setdefault("OMP_NUM_THREADS", str(usable_cores()))
    if "OMP_WAIT_POLICY" not in environment:
        environment.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)
