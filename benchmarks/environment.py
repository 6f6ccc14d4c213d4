"""The machine: CPU time of a process, cores, and the fingerprint that is printed with every figure."""

from __future__ import annotations

import os
import platform
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version

from swiftrec.server.models.device import DEVICES
from swiftrec.server.models.runtime import onnxruntime
from swiftrec.server.tuning.machine import processor

_PACKAGES = ("grpcio", "numpy", "protobuf", "tokenizers")
_MAX_LOAD_SHARE = 0.5  # load average by core beyond which figures are doubtful
_SCHEDULER_CLOCK = 2  # CPUCLOCK_SCHED in the kernel's posix-timers.h


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads of a process so far, ended ones included, in seconds, resolution 1 ns.

    This is the clock of `clock_getcpuclockid(3)`; /proc counts in ticks of 10 ms.
    """
    return time.clock_gettime((~pid << 3) | _SCHEDULER_CLOCK)


@dataclass(frozen=True, slots=True)
class CpuReading:
    """CPU seconds so far of the server (None: not measured) and of this process.

    `planned` is when they were to be read, `moment` when they were (monotonic clock).
    """

    planned: float
    moment: float
    server: float | None
    client: float


ReadCpu = Callable[[], float | None]
"""CPU seconds of a server so far; None if they cannot be read."""


def cpu_reader(pid: int | None) -> ReadCpu:
    """Reads the CPU time of a process; None without a process, or once it has ended."""

    def read() -> float | None:
        try:
            return None if pid is None else cpu_seconds(pid)
        except OSError:
            return None

    return read


def read_cpu(planned: float, read_server: ReadCpu) -> CpuReading:
    """A reading now."""
    return CpuReading(planned, time.monotonic(), read_server(), time.process_time())


class CpuMeter:
    """Reads CPU times at the given moments, in a separate thread.

    Args:
        moments: on the monotonic clock, ascending.
        read_server: reads the server's CPU time.
    """

    def __init__(self, moments: Sequence[float], read_server: ReadCpu) -> None:
        self._moments, self._read_server = moments, read_server
        self._readings: list[CpuReading] = []
        self._thread = threading.Thread(target=self._read, name="meter", daemon=True)
        self._thread.start()

    def readings(self) -> list[CpuReading]:
        """All readings, once the last moment has passed."""
        self._thread.join()
        return self._readings

    def _read(self) -> None:
        for moment in self._moments:
            time.sleep(max(0.0, moment - time.monotonic()))  # it measures at given times, it does not wait for an event
            self._readings.append(read_cpu(moment, self._read_server))


@contextmanager
def pinned(cores: int | Collection[int]) -> Iterator[None]:
    """Run this thread and the processes that it starts on these cores only.

    Raises:
        RuntimeError: this process may not use such a core.
    """
    before = os.sched_getaffinity(0)
    core_set = {cores} if isinstance(cores, int) else set(cores)
    try:
        os.sched_setaffinity(0, core_set)
    except OSError:
        names = ", ".join(map(str, sorted(core_set)))
        raise RuntimeError(
            f"core {names} may not be used here, but server and load need one each: allow it, e.g. with taskset"
        ) from None
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def fingerprint() -> dict[str, str]:
    """Processor, cores, versions and commit: what a reader needs to judge a figure."""
    return {
        "cpu": _cpu_model(),
        "cores": str(len(os.sched_getaffinity(0))),
        "load": f"{os.getloadavg()[0]:.2f}",
        "system": platform.platform(),
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,  # the name of its package depends on the device
        **{name: version(name) for name in _PACKAGES},
        "commit": _commit(),
    }


def _cpu_model() -> str:
    fields = processor()
    has_vnni = "avx512_vnni" in fields.get("flags", "")
    model = f"family {fields.get('cpu family', '?')} model {fields.get('model', '?')}"
    return f"{fields.get('model name', platform.machine())} ({model}, {'VNNI' if has_vnni else 'no VNNI'})"


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    printed = subprocess.run(command, capture_output=True, text=True, check=False).stdout  # noqa: S603
    return printed.strip() or "unknown"


def load_warning(machine: Mapping[str, str]) -> str:
    """A sentence if other programs used the machine when the measurement began; empty if they did not."""
    try:
        load, cores = float(machine["load"]), int(machine["cores"])
    except (KeyError, ValueError):
        return ""
    if load <= _MAX_LOAD_SHARE * cores:
        return ""
    return f"the machine was busy when the run began (load {load:.2f} on {cores} cores): measure again on an idle one"


def check_device(device: str) -> None:
    """Check that the device exists here.

    Raises:
        RuntimeError: it does not.
    """
    if not {*DEVICES[device].providers} <= {*onnxruntime.get_available_providers()}:
        raise RuntimeError(
            f"--device {device}: this onnxruntime finds no GPU, nothing was measured: leave --device out"
        )
