"""Where a stage keeps the state of its trainings until it is complete."""

from __future__ import annotations

import shutil
from pathlib import Path

from swiftrec.export.job import Job
from swiftrec.export.stages.order import STAGES
from swiftrec.export.stages.runner import stage_key
from swiftrec.export.train.fit import Resume


def resume_of(job: Job, stage_name: str, part: str) -> Resume:
    """The file with the state of one training of a stage."""
    stage = next(stage for stage in STAGES if stage.name == stage_name)
    return Resume(_folder(job, stage_name) / f"{part}.pt", stage_key(job, stage))


def forget(job: Job, stage_name: str) -> None:
    """Delete the states of a stage that is complete."""
    shutil.rmtree(_folder(job, stage_name), ignore_errors=True)


def _folder(job: Job, stage_name: str) -> Path:
    return job.folder(stage_name).with_name(f"{stage_name}.resume")
