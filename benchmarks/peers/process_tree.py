"""A server to measure with all processes that it starts: their CPU time; all of them are ended afterwards."""

from __future__ import annotations

import ctypes
import os
import random
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from swiftrec.benchmarks.environment import cpu_seconds, pinned

_SET_CHILD_SUBREAPER = 36  # prctl(2)
_POLL_S = 0.1
_STOP_S = 15.0
_PORTS = range(20_000, 32_000)  # below those that Linux by default gives to outgoing connections


class PeerError(RuntimeError):
    """A server ended, or did not respond, while it was measured."""


class StartError(PeerError):
    """A server cannot be run on this machine."""


@dataclass(frozen=True, slots=True)
class ProcessTree:
    """A running server with its processes; `unrelated` are children of this process that existed before it."""

    process: subprocess.Popen[bytes]
    unrelated: frozenset[int]
    log: Path
    _cpu_s: dict[int, float] = field(default_factory=dict)

    def cpu_s(self) -> float:
        """CPU seconds so far of all its processes, those that ended between two calls included."""
        for pid in self.members():
            with suppress(OSError):  # it has just ended
                self._cpu_s[pid] = cpu_seconds(pid)
        return sum(self._cpu_s.values())

    def members(self) -> set[int]:
        """Process ids of all its processes, orphans included."""
        return descendants(os.getpid()) - self.unrelated

    def check(self) -> None:
        """Raise PeerError if the server has ended."""
        if (code := self.process.poll()) is not None:
            raise PeerError(f"ended with exit code {code}: {last_line(self.log)}; see {self.log}")

    def wait_until(self, is_ready: Callable[[], bool], timeout_s: float) -> None:
        """Wait until a server responds; other servers have no common way to report that they are ready.

        Raises:
            StartError: it ended, or did not respond in time.
        """
        for _ in range(int(timeout_s / _POLL_S)):
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(_POLL_S)
            if (code := self.process.poll()) is not None:
                raise StartError(f"ended with exit code {code}: {last_line(self.log)}; see {self.log}")
            if is_ready():
                return
        raise StartError(
            f"no correct response within {timeout_s:g} s of its start: {last_line(self.log)}; see {self.log}"
        )


@contextmanager
def launched(command: Sequence[str], environment: Mapping[str, str], core: int, log: Path) -> Iterator[ProcessTree]:
    """Run a server on one core until the block ends; then end all its processes.

    Raises:
        StartError: it cannot be started.
    """
    unrelated = frozenset(descendants(os.getpid()))
    with ExitStack() as stack:
        _set_subreaper(True)  # its orphans become children of this process
        stack.callback(_set_subreaper, False)
        output = stack.enter_context(log.open("wb"))
        try:
            with pinned(core):
                process = subprocess.Popen(  # noqa: S603
                    command, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
                )
        except OSError as error:
            raise StartError(f"{command[0]}: {error.strerror}") from None
        tree = ProcessTree(process, unrelated, log)
        stack.callback(_end, tree)
        yield tree


def descendants(pid: int) -> set[int]:
    """Process ids of children, their children, and so on."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry.name))
    result: set[int] = set()
    remaining = [pid]
    while remaining:
        pids = children.get(remaining.pop(), [])
        result.update(pids)
        remaining += pids
    return result


def free_ports(number: int) -> list[int]:
    """Free ports outside the range from which Linux takes ports for outgoing connections.

    Raises:
        StartError: there are too few.
    """
    ports: list[int] = []
    for port in random.sample(_PORTS, len(_PORTS)):
        with socket.socket() as entry, suppress(OSError):
            entry.bind(("127.0.0.1", port))
            ports.append(port)
        if len(ports) == number:
            return ports
    raise StartError(f"no {number} free ports in {min(_PORTS)} to {max(_PORTS)}: end the servers that listen there")


def last_line(log: Path) -> str:
    """The last line of a log that is not empty."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][-300:] if lines else "it wrote nothing"


def _set_subreaper(is_on: bool) -> None:
    ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, int(is_on), 0, 0, 0)


def _end(tree: ProcessTree) -> None:
    """SIGTERM to the server, SIGKILL to the processes that are left."""
    tree.process.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        tree.process.wait(_STOP_S)
    while left := tree.members():
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in left:
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)
    tree.process.wait()
