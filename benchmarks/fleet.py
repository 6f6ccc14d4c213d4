"""Several load generators as one: each is a process of its own with its share of the load, all begin together."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from swiftrec.benchmarks.window import Window, joined

if TYPE_CHECKING:
    from swiftrec.benchmarks.load import LoadSettings

_READY = "ready"
_LEAD_S = 0.2


def start_time() -> float:
    """In a client of several: say that everything is prepared, and be told when to begin (monotonic clock)."""
    sys.stdout.write(f"{_READY}\n")
    sys.stdout.flush()
    return float(sys.stdin.readline())


def run(settings: LoadSettings) -> Window:
    """Start `settings.processes` clients and join what they measured.

    Raises:
        RuntimeError: one of them failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{part}.npz" for part in range(settings.processes)]
        clients = [_client(settings, part, path) for part, path in enumerate(paths)]
        try:
            _begin_together(clients)
            for client in clients:
                _, said = client.communicate()
                if client.returncode:
                    raise RuntimeError(_plain(said))
        finally:
            for client in clients:
                client.kill()
        return joined([Window.load(path) for path in paths])


def _client(settings: LoadSettings, part: int, path: Path) -> subprocess.Popen[str]:
    values = settings.model_dump(mode="json", exclude_none=True, exclude={"rows", "hdr", "processes", "cycle"})
    values |= {"part": part, "parts": settings.processes, "window": str(path)}
    if part:
        values.pop("watch", None)  # the first one watches the server
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in values.items()]
    flags += ["--cycle"] if settings.cycle else []
    return subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", "swiftrec.benchmarks", "load", *flags],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _begin_together(clients: list[subprocess.Popen[str]]) -> None:
    for client in clients:
        if client.stdout is None or client.stdout.readline().strip() != _READY:
            raise RuntimeError(
                _plain(client.communicate()[1]) or "a client ended before it began: run one alone, --processes 1"
            )
    start = time.monotonic() + _LEAD_S
    for client in clients:
        if client.stdin is not None:
            client.stdin.write(f"{start}\n")
            client.stdin.flush()


def _plain(said: str) -> str:
    """What a client said, without its name, which is ours as well."""
    return said.strip().removeprefix("benchmarks load: ")
