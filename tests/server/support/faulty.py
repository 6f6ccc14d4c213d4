"""`python -m tests.faults.faulty FAULT --bundle FOLDER ...`: the server with a small bundle that fails once it serves.

FAULT is `none`, `hang` (the next batch of the encoder does not end) or `poller` (gRPC's polling thread ends at the next
event).
"""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from swiftrec.server.__main__ import main
from swiftrec.server.app import App
from swiftrec.server.models.bundle import RANKER
from swiftrec.server.models.session import Session
from tests.conftest import ROOT
from tests.server.support import small


class Fatal(BaseException):
    """What ends a thread, as an error of the interpreter does."""


def _die(*_: object) -> bool:
    raise Fatal


class _Encoder(small.TinyEncoder):
    """Runs while its gate is open."""

    def __init__(self, gate: threading.Event) -> None:
        self._gate = gate

    def run(self, feeds: dict[str, NDArray[np.generic]]) -> NDArray[np.float32]:
        """Both halves."""
        self._gate.wait()
        return super().run(feeds)


class _FaultyApp(App):
    """Fails when it has started.

    Args:
        fault: as above.
        gate: of the encoder.
    """

    def __init__(self, fault: str, gate: threading.Event, *arguments: object, **named: object) -> None:
        super().__init__(*arguments, **named)  # type: ignore[arg-type] # those of an App
        self._test_fault, self._gate = fault, gate

    def start(self) -> None:
        """Start, then fail."""
        super().start()
        if self._test_fault == "hang":
            self._gate.clear()
        elif self._test_fault == "poller":
            patch("grpc._server._process_event_and_continue", _die).start()


def run(fault: str, flags: list[str]) -> int:
    """Serve; the exit code."""
    gate = threading.Event()
    gate.set()

    def open_session(path: Path, _device: str, _threads: int) -> Session:
        return small.TinyRanker() if path.name == RANKER else _Encoder(gate)

    with patch("swiftrec.server.__main__.App", partial(_FaultyApp, fault, gate, open_session=open_session)):
        return main(flags)


@contextmanager
def process(fault: str, bundle: Path, *flags: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Such a server in a process, and its address."""
    command = [
        sys.executable,
        "-m",
        "tests.server.support.faulty",
        fault,
        "--bundle",
        str(bundle),
        "--metrics-port",
        "0",
    ]
    with subprocess.Popen(
        [*command, *flags], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as running:
        try:
            assert running.stdout is not None
            actual = re.search(r"on (127\.0\.0\.1:\d+), metrics", running.stdout.readline())
            assert actual
            yield running, actual[1]
        finally:
            running.kill()


if __name__ == "__main__":
    sys.exit(run(sys.argv[1], sys.argv[2:]))
