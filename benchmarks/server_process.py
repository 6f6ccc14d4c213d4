"""Starts servers to measure, each in a process on its core; runs the load generator and the floor beside them."""

from __future__ import annotations

import json
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
from typing import IO, Any

from swiftrec.benchmarks.environment import pinned
from swiftrec.benchmarks.statistics import OK, RESOURCE_EXHAUSTED, UNAVAILABLE

SERVER_CORE = 0
_READY = re.compile(r" on (\S+:\d+)(?:, metrics on (\S+:\d+))?")
_STOP_S = 30
_TAIL_BYTES = 4_096  # of a server's stderr, searched for its last line


def load_cores() -> set[int]:
    """Cores of the load generator: all but the server's.

    Raises:
        RuntimeError: there is no other core.
    """
    cores = os.sched_getaffinity(0) - {SERVER_CORE}
    if not cores:
        raise RuntimeError(
            "only one core may be used here, but server and load need one each: allow two, e.g. taskset -c 0,1"
        )
    return cores


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """A running server.

    Attributes:
        address: HOST:PORT.
        pid: process to measure; None if this process did not start it.
        metrics: HOST:PORT of its metrics.
        errors: its stderr.
    """

    address: str
    pid: int | None
    metrics: str | None = None
    errors: IO[bytes] | None = None

    def check(self) -> None:
        """Check that it is running.

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
def running_server(
    arguments: Sequence[str], core: int | None = SERVER_CORE, folder: Path | None = None
) -> Iterator[ServerProcess]:
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
            yield ServerProcess(address, process.pid, metrics, errors)
        finally:
            _end(process)


def server_module(tree: Path) -> str:
    """The module that runs the server of a source tree: `python -m` in the tree runs it.

    Raises:
        RuntimeError: the folder has no server; then Python would run the installed one.
    """
    for module in ("swiftrec.server", "server"):  # the second one until the packages were put into one
        if (tree / module.replace(".", "/") / "__main__.py").is_file():
            return module
    raise RuntimeError(f"{tree}: holds no server: give the folder of a checkout, e.g. made by `git worktree add`")


def extra_flags(variant: str | None, given: str, *, has_cache: bool) -> list[str]:
    """Flags of a server to measure: encoder, cache, and `given` (words as in a shell).

    Without repeated texts a cache only fills up, so it is off unless `given` sets it.

    Raises:
        RuntimeError: `given` names another encoder than the floor would run.
    """
    words = shlex.split(given)
    if any(word.startswith("--variant") for word in words):
        raise RuntimeError(
            "--server-flags must not hold --variant, since the floor would run another model: use --variant"
        )
    flags = ["--variant", variant] if variant else []
    is_given = any(word.startswith("--cache-mb") for word in words)
    return [*flags, *([] if has_cache or is_given else ["--cache-mb", "0"]), *words]


def _addresses(process: subprocess.Popen[str], command: Sequence[str], errors: IO[bytes]) -> tuple[str, str | None]:
    line = process.stdout.readline() if process.stdout else ""
    ready = _READY.search(line)
    if not ready:
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S)  # its reason may follow on stderr
        reason = (
            _last_line(errors) or line.strip() or f"exit code {process.poll()} without an error message: run it by hand"
        )
        raise RuntimeError(f"{shlex.join(command)} did not start: {reason}")
    return ready[1], ready[2]


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
        raise RuntimeError(f"process {process.pid} did not end on SIGTERM and was killed: measure again") from None


NO_LIMIT = 9.0  # of the client's share of its cores: for a bare server, which is as fast as the client
_MEASURED = {0, 1}  # exit codes with figures; 1 if the client was the bottleneck or the server went away
_SUCCEEDED = {str(OK)}
# Rejections by a server under load; gRPC itself rejects the 1,025th call of a connection as UNAVAILABLE.
_REJECTED = {str(OK), str(RESOURCE_EXHAUSTED), str(UNAVAILABLE)}
Flag = str | int | float | bool | Path | Sequence[Any] | None


def tool_command(name: str, **flags: Flag) -> list[str]:
    """The command line of a tool of this package; True is a flag alone, a list repeats the flag, None is left out."""
    command = [sys.executable, "-m", "swiftrec.benchmarks", name]
    for field, value in flags.items():
        flag = f"--{field.replace('_', '-')}"
        if isinstance(value, bool):
            command += [flag] if value else []
        elif isinstance(value, list | tuple):
            command += [f"{flag}={element}" for element in value]
        elif value is not None:
            command.append(f"{flag}={value}")
    return command


def run_load_tool(
    server: ServerProcess, *, may_reject: bool = False, may_limit: bool = False, **flags: Flag
) -> dict[str, Any]:
    """Run `swiftrec bench load` against a server, on the other cores.

    Args:
        server: its CPU time is measured.
        may_reject: allow RESOURCE_EXHAUSTED, and UNAVAILABLE while the server's process lives.
        may_limit: do not fail if the client was the bottleneck: the caller checks "bottleneck".
        flags: fields of `LoadSettings`.

    Returns:
        `window.window_figures`.

    Raises:
        RuntimeError: the tool or requests failed, the server ended, or the client was the bottleneck.
    """
    command = tool_command("load", target=server.address, watch=server.pid, **flags)
    with pinned(load_cores()):
        process = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    server.check()
    if not process.stdout.strip() or process.returncode not in _MEASURED:
        raise RuntimeError(f"the load generator failed: {process.stderr.strip().removeprefix('swiftrec bench load: ')}")
    figures: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    _check(server, figures, may_reject=may_reject)
    if figures["bottleneck"] and not may_limit:
        raise RuntimeError(figures["bottleneck"])
    return figures


def run_floor_tool(**flags: Flag) -> dict[str, Any]:
    """Run `swiftrec bench floor` in a separate process.

    Args:
        flags: fields of `FloorSettings`.

    Returns:
        `floor.Floor` by field.

    Raises:
        RuntimeError: it failed.
    """
    process = subprocess.run(tool_command("floor", **flags), capture_output=True, text=True, check=False)  # noqa: S603
    if process.returncode:
        raise RuntimeError(f"the floor failed: {process.stderr.strip().removeprefix('swiftrec bench floor: ')}")
    figures: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return figures


def _check(server: ServerProcess, figures: dict[str, Any], *, may_reject: bool) -> None:
    allowed = _REJECTED if may_reject else _SUCCEEDED
    is_alive = may_reject and server.pid is not None  # not known of a process that this one did not start
    address, codes = server.address, figures["codes"]
    if (lost := codes.get(str(UNAVAILABLE))) and not is_alive:
        raise RuntimeError(f"the server at {address} went away, {lost} requests failed: look at its log")
    if failures := {code: number for code, number in codes.items() if code not in allowed}:
        names = ", ".join(f"{number} with status {code}" for code, number in failures.items())
        total = sum(codes.values())
        raise RuntimeError(f"requests failed: {names} of {total}: look at the log of the server at {address}")
    if figures["wrong"]:
        raise RuntimeError(f"{figures['wrong']} responses were empty: look at the log of the server at {address}")
