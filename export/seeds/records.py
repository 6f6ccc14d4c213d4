"""Names of the exports of each seed, and the records of their teachers."""

from __future__ import annotations

from typing import Literal, TypeVar

from swiftrec.export.config import ExportSettings
from swiftrec.export.job import Job
from swiftrec.export.schema.comparison import COMPARED, TeacherComparison
from swiftrec.export.stages.order import EVALUATION, TEACHER_STAGES
from swiftrec.export.stages.runner import is_fresh

_MARK = "-seed-"
Settings = TypeVar("Settings", bound=ExportSettings)


def of_seed(settings: Settings, seed: int) -> Settings:
    """The settings with another seed, which is part of the name."""
    return settings.model_copy(update={"name": f"{settings.name}{_MARK}{seed}", "seed": seed})


def recorded_teachers(
    settings: ExportSettings, name: str, protocol: Literal["leave-one-out", "time"]
) -> dict[int, TeacherComparison]:
    """Seed -> the comparison of its teacher, ascending; only if it is up to date.

    Args:
        settings: those of the export, without name and protocol.
        name: of the export, as given to `swiftrec export seeds`.
        protocol: by which the teachers were trained.
    """
    base = settings.model_copy(update={"name": name, "protocol": protocol})
    folders = (settings.artifacts / ".stages").glob(f"{name}{_MARK}*")
    numbers = [folder.name.removeprefix(f"{name}{_MARK}") for folder in folders]
    records = {}
    for seed in sorted(int(number) for number in numbers if number.isdecimal()):
        job = Job(of_seed(base, seed))
        if is_fresh(job, EVALUATION, TEACHER_STAGES):
            path = job.folder(EVALUATION.name) / COMPARED
            records[seed] = TeacherComparison.model_validate_json(path.read_bytes())
    return records
