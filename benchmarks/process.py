"""Servers under measurement, each in a process of its own on a core of its own."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from benchmarks.machine import pinned

SERVER_CORE, LOAD_CORE = 0, 1
_READY = re.compile(r" on (\S+:\d+)")
_STOP_S = 30


@dataclass(frozen=True, slots=True)
class Served:
    """A running server: where it listens and what to measure."""

    address: str
    pid: int


@contextmanager
def serving(arguments: Sequence[str], core: int | None = SERVER_CORE) -> Iterator[Served]:
    """Run `python ARGUMENTS` on a core until the block ends; it must print "... on HOST:PORT" when ready.

    Raises:
        RuntimeError: it ended instead, or does not end on SIGTERM.
    """
    command = [sys.executable, *arguments]
    with nullcontext() if core is None else pinned(core):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)  # noqa: S603
    with process:
        try:
            yield Served(_address(process, command), process.pid)
        finally:
            _end(process)


def _address(process: subprocess.Popen[str], command: Sequence[str]) -> str:
    line = process.stdout.readline() if process.stdout else ""
    found = _READY.search(line)
    if not found:
        raise RuntimeError(f"{' '.join(command)} did not start: {line.strip() or 'it said nothing; run it by hand'}")
    return found[1]


def _end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        raise RuntimeError(f"process {process.pid} did not end on SIGTERM") from None
