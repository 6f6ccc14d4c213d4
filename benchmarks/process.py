"""Servers under measurement, each in a process of its own on a core of its own."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from swiftrec.benchmarks.machine import pinned

SERVER_CORE = 0
_READY = re.compile(r" on (\S+:\d+)(?:, metrics on (\S+:\d+))?")
_STOP_S = 30
_TAIL_BYTES = 4_096  # of a server's stderr that its last line is looked for in


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
    """A running server.

    Attributes:
        address: where it listens.
        pid: what to measure; None: not a process of ours.
        metrics: where its metrics are.
        errors: what it writes to stderr.
    """

    address: str
    pid: int | None
    metrics: str | None = None
    errors: IO[bytes] | None = None

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
                f"{_last_line(self.errors) or 'it wrote nothing to stderr: run it by hand under the same load'}"
            )


@contextmanager
def serving(arguments: Sequence[str], core: int | None = SERVER_CORE, folder: Path | None = None) -> Iterator[Served]:
    """Run `python ARGUMENTS` on a core until the block ends; it must print "... on HOST:PORT" when ready.

    `python -m` looks for modules in the working directory first, so `folder` decides which source tree runs.

    Raises:
        RuntimeError: it ended instead (with the last line of its stderr), or does not end on SIGTERM.
    """
    command = [sys.executable, *arguments]
    with tempfile.TemporaryFile() as errors, ExitStack() as stack:
        with nullcontext() if core is None else pinned(core):
            process = stack.enter_context(
                subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=folder)  # noqa: S603
            )
        try:
            address, metrics = _addresses(process, command, errors)
            yield Served(address, process.pid, metrics, errors)
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


def _addresses(process: subprocess.Popen[str], command: Sequence[str], errors: IO[bytes]) -> tuple[str, str | None]:
    line = process.stdout.readline() if process.stdout else ""
    found = _READY.search(line)
    if not found:
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S)  # it may say why on stderr just before it ends
        reason = _last_line(errors) or line.strip() or f"exit code {process.poll()} without a word: run it by hand"
        raise RuntimeError(f"{shlex.join(command)} did not start: {reason}")
    return found[1], found[2]


def _last_line(errors: IO[bytes] | None) -> str:
    """The last line of a server's stderr that is not empty; the server's position in the file stays as it is."""
    if errors is None:
        return ""
    size = os.fstat(errors.fileno()).st_size
    tail = os.pread(errors.fileno(), _TAIL_BYTES, max(0, size - _TAIL_BYTES)).decode(errors="replace")
    return next((line.strip() for line in reversed(tail.splitlines()) if line.strip()), "")


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        raise RuntimeError(f"process {process.pid} did not end on SIGTERM, it was killed: measure again") from None
