"""The machine: CPU time of a process, cores, and the fingerprint that stands beside every figure."""

from __future__ import annotations

import os
import platform
import subprocess
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version

from swiftrec.server.models.runtime import onnxruntime
from swiftrec.server.tuning.machine import processor

_PACKAGES = ("grpcio", "numpy", "protobuf", "tokenizers")
_SCHEDULER_CLOCK = 2  # CPUCLOCK_SCHED in the kernel's posix-timers.h


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads of a process so far, ended ones included, in seconds with a resolution of nanoseconds.

    This is the clock of `clock_getcpuclockid(3)`; /proc counts in ticks of 10 ms.
    """
    return time.clock_gettime((~pid << 3) | _SCHEDULER_CLOCK)


@dataclass(frozen=True, slots=True)
class Reading:
    """CPU seconds of the server (None: not watched) and of this process so far, read at a moment.

    `planned` is when it was to be read, `moment` when it was (monotonic clock).
    """

    planned: float
    moment: float
    server: float | None
    own: float


class Meter:
    """Takes a reading at each of some moments, by a thread of its own.

    Args:
        moments: on the monotonic clock, ascending.
        watch: process id of the server.
    """

    def __init__(self, moments: Sequence[float], watch: int | None) -> None:
        self._moments, self._watch = moments, watch
        self._readings: list[Reading] = []
        self._thread = threading.Thread(target=self._read, name="meter", daemon=True)
        self._thread.start()

    def readings(self) -> list[Reading]:
        """All of them, once the last moment has passed."""
        self._thread.join()
        return self._readings

    def _read(self) -> None:
        for moment in self._moments:
            time.sleep(max(0.0, moment - time.monotonic()))  # it measures at times, it does not wait for something
            self._readings.append(Reading(moment, time.monotonic(), self._server(), time.process_time()))

    def _server(self) -> float | None:
        try:
            return None if self._watch is None else cpu_seconds(self._watch)
        except OSError:
            return None  # it has ended


@contextmanager
def pinned(cores: int | Collection[int]) -> Iterator[None]:
    """Run this thread, and what it starts meanwhile, on one core or several.

    Raises:
        RuntimeError: there is no such core for us.
    """
    before = os.sched_getaffinity(0)
    wanted = {cores} if isinstance(cores, int) else set(cores)
    try:
        os.sched_setaffinity(0, wanted)
    except OSError:
        names = ", ".join(map(str, sorted(wanted)))
        raise RuntimeError(
            f"core {names} may not be used here, server and load need one each: allow it (taskset)"
        ) from None
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
        "onnxruntime": onnxruntime.__version__,  # whatever its package is called
        **{name: version(name) for name in _PACKAGES},
        "commit": _commit(),
    }


def _cpu_model() -> str:
    fields = processor()
    wide = "avx512_vnni" in fields.get("flags", "")
    where = f"family {fields.get('cpu family', '?')} model {fields.get('model', '?')}"
    return f"{fields.get('model name', platform.machine())} ({where}, {'VNNI' if wide else 'no VNNI'})"


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    return found.stdout.strip() or "unknown"
