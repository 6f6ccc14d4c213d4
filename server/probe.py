"""Tries a bundle in a separate process, so that a bad model file crashes that process and not the server."""

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

from pydantic_settings import CLI_SUPPRESS, SettingsConfigDict

from swiftrec.server.config import ServerSettings
from swiftrec.server.errors import BundleError
from swiftrec.server.models.bundle import load_bundle
from swiftrec.server.pipeline.engine import EngineOptions
from swiftrec.server.pipeline.recommender import Recommender

_USED = {
    "bundle",
    "device",
    "variant",
    "sessions",
    "threads",
    "max_batch_tokens",
    "max_batch_size",
    "cache_mb",
    "parts",
}
_MAX_MESSAGE_CHARS = 1_000  # clients reject much longer trailers
_PREFIX = "swiftrec probe: "  # of the error message of the child process, see server.__main__


class ProbeSettings(ServerSettings):
    """Load and warm up a bundle as the server would, without opening a port: exit code 0, or 2 with the reason.

    Accepts all flags and variables of swiftrec serve, so that a bundle can be tried with the settings that will serve
    it. These are the ones that have an effect:
    """

    model_config = SettingsConfigDict(cli_prog_name="swiftrec probe")


for _name, _field in ProbeSettings.model_fields.items():  # copies: the help of swiftrec serve stays
    if _name not in _USED:
        _field.description = CLI_SUPPRESS


def probe(folder: Path, options: EngineOptions, timeout_s: float) -> None:
    """Load, warm up and stop the bundle in a child process, which is killed after `timeout_s`.

    Raises:
        BundleError: the child process failed; the message has the reason.
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
    child_end, parent_end = os.pipe()  # closes when this process ends in any way, which ends the child process
    try:
        child = subprocess.run(  # noqa: S603 (our own command; the folder is one argument)
            command,
            stdin=child_end,
            capture_output=True,
            check=False,
            timeout=timeout_s,
            cwd=Path(__file__).parents[2],  # the folder of the package, also if it is not installed
            start_new_session=True,  # Ctrl-C must only reach the server
            env={name: value for name, value in os.environ.items() if not name.startswith("SWIFTREC_")},
        )
    except subprocess.TimeoutExpired:
        remedy = "export it again or raise --probe-timeout-s"
        raise BundleError(f"{folder}: not warmed up in a separate process after {timeout_s:g} s: {remedy}") from None
    finally:
        os.close(child_end)
        os.close(parent_end)
    if child.returncode:
        raise BundleError(_reason(folder, child.returncode, child.stderr.decode(errors="replace")))


def _reason(folder: Path, code: int, stderr: str) -> str:
    """Why the child process failed: its error message, among the output of libraries."""
    if code < 0:
        known = {number.value: number.name for number in signal.Signals}
        name = known.get(-code, f"signal {-code}")
        return f"{folder}: loading it in a separate process ended with {name}: export it again"
    sentences = [line for line in stderr.splitlines() if line.startswith(_PREFIX)]
    if sentences:
        return textwrap.shorten(sentences[-1].removeprefix(_PREFIX), _MAX_MESSAGE_CHARS, placeholder=" ...")
    return (
        f"{folder}: loading it failed with exit code {code}: run swiftrec probe --bundle {folder} to see why, "
        "or export it again"
    )


def try_bundle(folder: Path, options: EngineOptions) -> None:
    """Try a bundle in this process.

    Raises:
        BundleError, ProviderError: the bundle cannot be served.
    """
    Recommender(
        load_bundle(folder), replace(options, index="exact")
    ).start()  # the index needs no trial: it is built from the models


def end_with_parent() -> None:
    """End this process when its parent ends and closes the pipe on stdin."""
    if stat.S_ISFIFO(os.fstat(0).st_mode):
        threading.Thread(target=_follow_parent, name="parent", daemon=True).start()


def _follow_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)
