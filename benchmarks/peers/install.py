"""Environments of other programs, each with every package pinned in `<name>.txt`, under `artifacts/.peers`."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from swiftrec.benchmarks.optional_deps import error_sentence

HOME = Path("artifacts/.peers")
_PINS = Path(__file__).parent / "requirements"
READY = ".ready"
_REMEDY = "run it again with a network, pip's index and some GB of disk, or name the others with {selection}"


class InstallError(RuntimeError):
    """A peer cannot be installed."""


def python_of(
    name: str, pins_folder: Path = _PINS, *, selection: str = "--targets", needs_dependencies: bool = False
) -> Path:
    """The interpreter of a peer's environment, made first if it is missing or has other pins.

    Args:
        name: of the environment and of its file of pins.
        pins_folder: folder of that file.
        selection: the flag that runs without this environment, for the error.
        needs_dependencies: let pip add what the pins leave open, such as the libraries of a CUDA build of PyTorch.

    Raises:
        InstallError: with pip's reason.
    """
    folder, pins = HOME / name, pins_folder / f"{name}.txt"
    python = folder.absolute() / "bin" / "python"
    expected = hashlib.sha256(pins.read_bytes()).hexdigest()
    if _is_ready(folder, expected):
        return python
    sys.stderr.write(f"installing {name} into {folder} ...\n")
    (folder / READY).unlink(missing_ok=True)  # first, so that half a folder is never used
    shutil.rmtree(folder, ignore_errors=True)
    flags = ["--quiet", "--disable-pip-version-check", *([] if needs_dependencies else ["--no-deps"]), "-r", str(pins)]
    try:
        _run([sys.executable, "-m", "venv", str(folder)], selection)
        _run([str(python), "-m", "pip", "install", *flags], selection)
        (folder / READY).write_text(expected)
    except OSError as error:
        raise InstallError(f"does not install: {error_sentence(error)}") from None
    return python


def _is_ready(folder: Path, expected: str) -> bool:
    return (folder / READY).exists() and (folder / READY).read_text() == expected


def _run(command: list[str], selection: str) -> None:
    ended = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if ended.returncode:
        lines = [line for line in (ended.stderr + ended.stdout).splitlines() if line.startswith("ERROR")]
        reason = lines[-1] if lines else " ".join((ended.stderr or ended.stdout).split())[-300:]
        raise InstallError(f"does not install: {reason}; {_REMEDY.format(selection=selection)}")
