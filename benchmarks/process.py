"""Servers under test in processes of their own, on cores of their own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path(__file__).parent.parent
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Running:
    """A server under test."""

    pid: int
    address: str

    def cpu_s(self) -> float:
        """User and system time that its process has used, all threads, in seconds."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def memory_bytes(self) -> int:
        """Resident memory."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def running(module: str, *flags: str, cores: set[int] | None = None) -> Iterator[Running]:
    """`python -m module flags` until the block ends; it must print "on HOST:PORT" when it is ready."""
    command = [sys.executable, "-m", module, *flags]
    with subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:  # noqa: S603 (our own modules)
        if cores:
            os.sched_setaffinity(process.pid, cores)
        try:
            if process.stdout is None or not (ready := process.stdout.readline()):
                raise RuntimeError(f"{' '.join(command)} did not start: run it by hand to see why")
            match = re.search(r"on (\S+:\d+)", ready)
            if match is None:
                raise RuntimeError(f"{module} said {ready!r} instead of its address")
            yield Running(process.pid, match[1])
        finally:
            process.send_signal(signal.SIGKILL if module == "benchmarks.echo" else signal.SIGTERM)
            process.wait()
