"""Where the export of each seed lies, and what is recorded of its teacher."""

from __future__ import annotations

from typing import Literal, TypeVar

from swiftrec.export.config import ExportSettings
from swiftrec.export.evaluate.record import COMPARED, Compared
from swiftrec.export.stages.order import EVALUATION
from swiftrec.export.stages.runner import Job, teacher_job

_MARK = "-seed-"
Settings = TypeVar("Settings", bound=ExportSettings)


def of_seed(settings: Settings, seed: int) -> Settings:
    """The settings with another seed, and a name that has it."""
    return settings.model_copy(update={"name": f"{settings.name}{_MARK}{seed}", "seed": seed})


def recorded_teachers(
    settings: ExportSettings, name: str, protocol: Literal["leave-one-out", "time"]
) -> dict[int, Compared]:
    """What was found of the teachers of each seed, ascending; only what is up to date.

    Args:
        settings: those of the export, but for what follows.
        name: which `swiftrec export seeds` was given.
        protocol: which the teachers were trained by.
    """
    base = settings.model_copy(update={"name": name, "protocol": protocol})
    folders = (settings.artifacts / ".stages").glob(f"{name}{_MARK}*")
    numbers = [folder.name.removeprefix(f"{name}{_MARK}") for folder in folders]
    found = {}
    for seed in sorted(int(number) for number in numbers if number.isdecimal()):
        job = teacher_job(Job(of_seed(base, seed)))
        if job.is_fresh(EVALUATION):
            path = job.folder(EVALUATION.name) / COMPARED
            found[seed] = Compared.model_validate_json(path.read_bytes())
    return found
