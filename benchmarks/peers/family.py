"""A server under measurement with all processes that it starts: CPU time of all, and none left behind."""

from __future__ import annotations

import ctypes
import os
import random
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from swiftrec.benchmarks.machine import cpu_seconds, pinned

_SET_CHILD_SUBREAPER = 36  # prctl(2)
_LOOK_S = 0.1
_STOP_S = 15.0
_PORTS = range(20_000, 32_000)  # below those that Linux by default gives to who connects, taken at any moment


class PeerError(RuntimeError):
    """A server ends, or answers nothing, while it is measured."""


class StartError(PeerError):
    """A server cannot be run here."""


@dataclass(frozen=True, slots=True)
class Family:
    """A running server; `others` are processes of ours that were there before it."""

    process: subprocess.Popen[bytes]
    others: frozenset[int]
    log: Path

    def cpu_s(self) -> dict[int, float]:
        """CPU seconds so far of each process."""
        found = {}
        for pid in self.members():
            with suppress(OSError):  # it has just ended
                found[pid] = cpu_seconds(pid)
        return found

    def members(self) -> set[int]:
        """All its processes, orphans included."""
        return descendants(os.getpid()) - self.others

    def check(self) -> None:
        """Raise PeerError if the server has ended."""
        if (code := self.process.poll()) is not None:
            raise PeerError(f"ended with exit code {code}: {last_line(self.log)}; see {self.log}")

    def wait_until(self, is_ready: Callable[[], bool], timeout_s: float) -> None:
        """Wait until a server of another make answers; it has no other way of telling.

        Raises:
            StartError: it ended, or did not answer in time.
        """
        for _ in range(int(timeout_s / _LOOK_S)):
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(_LOOK_S)
            if (code := self.process.poll()) is not None:
                raise StartError(f"ended with exit code {code}: {last_line(self.log)}; see {self.log}")
            if is_ready():
                return
        raise StartError(f"no right answer within {timeout_s:g} s of its start: {last_line(self.log)}; see {self.log}")


@contextmanager
def launched(command: Sequence[str], environment: Mapping[str, str], core: int, log: Path) -> Iterator[Family]:
    """Run a server on one core until the block ends; then every process of it is ended, too.

    Raises:
        StartError: it cannot be started.
    """
    others = frozenset(descendants(os.getpid()))
    with ExitStack() as stack:
        _adopt(True)  # its orphans become our children
        stack.callback(_adopt, False)
        output = stack.enter_context(log.open("wb"))
        try:
            with pinned(core):
                process = subprocess.Popen(  # noqa: S603
                    command, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
                )
        except OSError as error:
            raise StartError(f"{command[0]}: {error.strerror}") from None
        family = Family(process, others, log)
        stack.callback(_end, family)
        yield family


def descendants(pid: int) -> set[int]:
    """Process ids of children, their children, and so on."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry.name))
    found: set[int] = set()
    ahead = [pid]
    while ahead:
        new = children.get(ahead.pop(), [])
        found.update(new)
        ahead += new
    return found


def free_ports(number: int) -> list[int]:
    """Ports that nobody has at this moment, nor is given by the system, by default, before the server listens.

    Raises:
        StartError: there are not so many.
    """
    found: list[int] = []
    for port in random.sample(_PORTS, len(_PORTS)):
        with socket.socket() as entry, suppress(OSError):
            entry.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == number:
            return found
    where = f"{min(_PORTS)} to {max(_PORTS)}"
    raise StartError(f"no {number} free ports in {where}: end the servers that listen there")


def last_line(log: Path) -> str:
    """The last line of a log that says something."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][-300:] if lines else "it said nothing"


def _adopt(whether: bool) -> None:
    ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, int(whether), 0, 0, 0)


def _end(family: Family) -> None:
    """SIGTERM to the server, SIGKILL to what is left."""
    family.process.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        family.process.wait(_STOP_S)
    while left := family.members():
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in left:
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)
    family.process.wait()
