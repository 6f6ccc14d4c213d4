"""Trying a bundle in a separate process, so that a bad model file takes that process down and not the server."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import textwrap
import threading
from dataclasses import replace
from pathlib import Path

from pydantic_settings import SettingsConfigDict

from swiftrec.server.config import ServerSettings
from swiftrec.server.errors import BundleError
from swiftrec.server.models.bundle import load_bundle
from swiftrec.server.pipeline.engine import EngineOptions
from swiftrec.server.pipeline.recommender import Recommender

_SENTENCE_CHARS = 1_000  # clients refuse trailers that are much longer
_PREFIX = "swiftrec probe: "  # of the child's error, written by server.__main__


class ProbeSettings(ServerSettings):
    """Load and warm up a bundle as the server would, without opening a port: exit code 0, or 2 with the reason.

    Takes the flags and variables of swiftrec serve, so that a bundle can be tried with the settings that will serve it.
    """

    model_config = SettingsConfigDict(cli_prog_name="swiftrec probe")


def probe(folder: Path, options: EngineOptions, timeout_s: float) -> None:
    """Load, warm up and stop the bundle in a child process, which is killed after `timeout_s`.

    Raises:
        BundleError: the child failed; says why, in one sentence.
    """
    command = [
        sys.executable,
        "-m",
        "swiftrec",
        "probe",
        "--bundle",
        str(folder.resolve()),
        "--device",
        options.device,
    ]
    if options.variant:
        command += ["--variant", options.variant]
    theirs, ours = os.pipe()  # it closes when this process ends, however that ends: the child goes too
    try:
        child = subprocess.run(  # noqa: S603 (our own command; the folder is one argument)
            command,
            stdin=theirs,
            capture_output=True,
            check=False,
            timeout=timeout_s,
            cwd=Path(__file__).parents[2],  # where the package swiftrec is, in a checkout that is not installed, too
            start_new_session=True,  # Ctrl-C is for the server
            env={name: value for name, value in os.environ.items() if not name.startswith("SWIFTREC_")},
        )
    except subprocess.TimeoutExpired:
        remedy = "export it again or raise --probe-timeout-s"
        raise BundleError(f"{folder}: not warm in a separate process after {timeout_s:g} s: {remedy}") from None
    finally:
        os.close(theirs)
        os.close(ours)
    if child.returncode:
        raise BundleError(_reason(folder, child.returncode, child.stderr.decode(errors="replace")))


def _reason(folder: Path, code: int, stderr: str) -> str:
    """Why the child failed: its own sentence, wherever that stands among what libraries write."""
    if code < 0:
        known = {number.value: number.name for number in signal.Signals}
        name = known.get(-code, f"signal {-code}")
        return f"{folder}: loading it in a separate process ended with {name}: export it again"
    sentences = [line for line in stderr.splitlines() if line.startswith(_PREFIX)]
    if sentences:
        return textwrap.shorten(sentences[-1].removeprefix(_PREFIX), _SENTENCE_CHARS, placeholder=" ...")
    return (
        f"{folder}: loading it failed with exit code {code}: run swiftrec probe --bundle {folder} to see why, "
        "or export it again"
    )


def try_bundle(folder: Path, options: EngineOptions) -> None:
    """What the child does.

    Raises:
        BundleError, ProviderError: the bundle cannot be served.
    """
    Recommender(load_bundle(folder), replace(options, index="exact")).start()  # an index is made of what is tried here


def end_with_parent() -> None:
    """End this process when the parent ends, of which the pipe on stdin tells."""
    if stat.S_ISFIFO(os.fstat(0).st_mode):
        threading.Thread(target=_follow_parent, name="parent", daemon=True).start()


def _follow_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)
