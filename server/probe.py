"""Trying a bundle in a process of its own, so that a bad model file takes that process down and not the server."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

from server.errors import BundleError
from server.models.bundle import load_bundle
from server.pipeline.engine import Engine, EngineOptions

_TIMEOUT_S = 300.0


def probe(folder: Path, options: EngineOptions) -> None:
    """Load, warm up and stop the bundle in a child process.

    Raises:
        BundleError: the child failed; says why.
    """
    command = [sys.executable, "-m", "server", "probe", "--bundle", str(folder.resolve()), "--device", options.device]
    if options.variant:
        command += ["--variant", options.variant]
    theirs, ours = os.pipe()  # it closes when this process ends, however that ends: the child goes too
    try:
        child = subprocess.run(  # noqa: S603 (our own command; the folder is one argument)
            command,
            stdin=theirs,
            capture_output=True,
            text=True,
            check=False,
            timeout=_TIMEOUT_S,
            cwd=Path(__file__).parent.parent,
            start_new_session=True,  # Ctrl-C is for the server
            env={name: value for name, value in os.environ.items() if not name.startswith("SWIFTREC_")},
        )
    except subprocess.TimeoutExpired:
        raise BundleError(f"{folder}: not warm after {_TIMEOUT_S:.0f} s in a process of its own") from None
    finally:
        os.close(theirs)
        os.close(ours)
    if child.returncode < 0:
        known = {number.value: number.name for number in signal.Signals}
        name = known.get(-child.returncode, f"signal {-child.returncode}")
        raise BundleError(f"{folder}: loading it ended a process of its own with {name}: export it again")
    if child.returncode:
        last = child.stderr.strip().rpartition("\n")[2].removeprefix("server: ")
        raise BundleError(last or f"{folder}: loading it failed with exit code {child.returncode}")


def try_bundle(folder: Path, options: EngineOptions) -> None:
    """What the child does.

    Raises:
        BundleError, ProviderError: the bundle cannot be served.
    """
    Engine(load_bundle(folder), replace(options, index="exact")).warm_up()  # an index is made of what is tried here


def end_with_parent() -> None:
    """End this process when the parent ends, of which the pipe on stdin tells."""
    if stat.S_ISFIFO(os.fstat(0).st_mode):
        threading.Thread(target=_follow_parent, name="parent", daemon=True).start()


def _follow_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)
