"""Tiny stages for the tests of the stage runner: `run` writes a file, then does what FAULT says."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

from swiftrec.export.config import ExportSettings
from swiftrec.export.job import Job
from swiftrec.export.stages.order import Stage
from swiftrec.export.stages.runner import run_all

STAGES = (Stage("one", "tests.export.steps", ("seed",)), Stage("two", "tests.export.steps", (), ("one",)))


def run(job: Job, output: Path) -> None:
    """Write a file; count the run; fail or die half-way if FAULT names this stage."""
    name = output.name.removesuffix(".partial")
    with (job.settings.artifacts / "runs").open("a") as file:
        file.write(f"{name}\n")
    (output / "half").write_text("half")
    match os.environ.get("FAULT", "").split(":"):
        case ["kill", stage] if stage == name:
            os.kill(os.getpid(), signal.SIGKILL)
        case ["full", stage] if stage == name:
            raise OSError(errno.ENOSPC, "No space left on device")
        case ["wrapped", stage] if stage == name:
            raise RuntimeError("cannot write: No space left on device (os error 28)")
        case ["edit", stage, path] if stage == name:
            Path(path).write_text("edited while the stage ran")
    (output / "whole").write_text("whole")


if __name__ == "__main__":
    run_all(Job(ExportSettings(artifacts=Path(os.environ["ARTIFACTS"]), name="tiny", _cli_parse_args=[])), STAGES)
