"""Tiny stages for the tests of the stage runner: `run` writes a file, then does what FAULT says."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

from swiftrec.export.config import ExportSettings
from swiftrec.export.stages.order import Stage
from swiftrec.export.stages.runner import Job, run_all

STAGES = (Stage("one", "tests.export.steps", ("seed",)), Stage("two", "tests.export.steps", (), ("one",)))


def run(job: Job, out: Path) -> None:
    """Write a file; count the run; fail or die half-way if FAULT names this stage."""
    name = out.name.removesuffix(".partial")
    with (job.settings.artifacts / "runs").open("a") as file:
        file.write(f"{name}\n")
    (out / "half").write_text("half")
    match os.environ.get("FAULT", "").split(":"):
        case ["kill", stage] if stage == name:
            os.kill(os.getpid(), signal.SIGKILL)
        case ["full", stage] if stage == name:
            raise OSError(errno.ENOSPC, "No space left on device")
        case ["wrapped", stage] if stage == name:
            raise RuntimeError("cannot write: No space left on device (os error 28)")
        case ["edit", stage, path] if stage == name:
            Path(path).write_text("edited while the stage ran")
    (out / "whole").write_text("whole")


if __name__ == "__main__":
    run_all(
        Job(ExportSettings(artifacts=Path(os.environ["ARTIFACTS"]), name="tiny", _cli_parse_args=[]), stages=STAGES)
    )
