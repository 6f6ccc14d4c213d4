"""Servers under measurement, each in a process of its own on a core of its own."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import pinned

SERVER_CORE = 0
_READY = re.compile(r" on (\S+:\d+)(?:, metrics on (\S+:\d+))?")
_STOP_S = 30


def load_cores() -> set[int]:
    """Where the load generator runs: every core but the server's.

    Raises:
        RuntimeError: there is no other.
    """
    cores = os.sched_getaffinity(0) - {SERVER_CORE}
    if not cores:
        raise RuntimeError(
            "only one core may be used here, server and load need one each: allow two, e.g. taskset -c 0,1"
        )
    return cores


@dataclass(frozen=True, slots=True)
class Served:
    """A running server: where it listens, what to measure (None: not a process of ours), where its metrics are."""

    address: str
    pid: int | None
    metrics: str | None = None

    def check(self) -> None:
        """It is still there.

        Raises:
            RuntimeError: it has ended.
        """
        if self.pid is None:
            return
        try:
            state = Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
        except OSError:
            state = "Z"
        if state == "Z":
            raise RuntimeError(
                f"the server at {self.address} (process {self.pid}) ended while it was measured: "
                "run it by hand under the same load to see why"
            )


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
            address, metrics = _addresses(process, command)
            yield Served(address, process.pid, metrics)
        finally:
            _end(process)


def more_flags(variant: str | None, given: str, *, has_cache: bool) -> list[str]:
    """A server's flags for what is measured: encoder, cache, and those that were given as one word.

    Without repetitions a cache would only fill, so it is off, unless `given` has it.

    Raises:
        RuntimeError: `given` has another encoder than the floor would run.
    """
    words = shlex.split(given)
    if any(word.startswith("--variant") for word in words):
        raise RuntimeError("--variant in --server-flags would leave the floor with another model: give it as a flag")
    flags = ["--variant", variant] if variant else []
    is_given = any(word.startswith("--cache-mb") for word in words)
    return [*flags, *([] if has_cache or is_given else ["--cache-mb", "0"]), *words]


def _addresses(process: subprocess.Popen[str], command: Sequence[str]) -> tuple[str, str | None]:
    line = process.stdout.readline() if process.stdout else ""
    found = _READY.search(line)
    if not found:
        raise RuntimeError(f"{' '.join(command)} did not start: {line.strip() or 'it said nothing; run it by hand'}")
    return found[1], found[2]


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        raise RuntimeError(f"process {process.pid} did not end on SIGTERM, it was killed: measure again") from None
