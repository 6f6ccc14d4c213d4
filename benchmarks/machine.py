"""The machine: CPU time of a process, cores, and the fingerprint that stands beside every figure."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

_PACKAGES = ("grpcio", "numpy", "onnxruntime", "protobuf", "tokenizers")
_SCHEDULER_CLOCK = 2  # CPUCLOCK_SCHED in the kernel's posix-timers.h


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads of a process so far, ended ones included, in seconds with a resolution of nanoseconds.

    This is the clock of `clock_getcpuclockid(3)`; /proc counts in ticks of 10 ms.
    """
    return time.clock_gettime((~pid << 3) | _SCHEDULER_CLOCK)


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """Run this thread, and what it starts meanwhile, on one core.

    Raises:
        RuntimeError: there is no such core for us.
    """
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {core})
    except OSError:
        raise RuntimeError(f"core {core} may not be used here: server and load need one each") from None
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def fingerprint() -> dict[str, str]:
    """What a reader needs to judge a figure: processor, cores, versions, commit."""
    return {
        "cpu": _cpu_model(),
        "cores": str(len(os.sched_getaffinity(0))),
        "load": f"{os.getloadavg()[0]:.2f}",
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
        "commit": _commit(),
    }


def _cpu_model() -> str:
    fields: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    wide = "avx512_vnni" in fields.get("flags", "")
    where = f"family {fields.get('cpu family', '?')} model {fields.get('model', '?')}"
    return f"{fields.get('model name', platform.machine())} ({where}, {'VNNI' if wide else 'no VNNI'})"


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    return found.stdout.strip() or "unknown"
