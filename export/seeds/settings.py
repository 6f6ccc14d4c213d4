"""Settings of `swiftrec export seeds`: those of an export, the seeds, and how far each export goes."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from swiftrec.export.config import ExportSettings, JsonOutput

_Seed = Annotated[int, Field(ge=0)]


class SeedsSettings(ExportSettings, JsonOutput):
    """Measure an export with several seeds, to see how much results vary.

    Each seed has an export called NAME-seed-SEED; stages that are up to date do not run again. It takes every flag of
    the export but --seed. One table has the mean over the seeds, the lowest and the highest; another one the paired
    differences of each seed with their 95 % intervals. --json prints the same as JSON.

    The seed changes training and the samples of the evaluation: users, items, requests and typing errors. The last
    events of each user and the cold items are the same for every seed.
    """

    model_config = SettingsConfigDict(cli_prog_name="swiftrec export seeds", cli_shortcuts={"as-json": "json"})

    seeds: list[_Seed] = Field([7, 8, 9], min_length=1, description="seeds to measure, such as 7,8,9")
    whole: bool = Field(
        False,
        description="run every stage and also measure students and default variant; otherwise the teacher alone is "
        "measured, with all parts of its score",
    )

    @model_validator(mode="after")
    def _has_neither_stage_nor_seed(self) -> Self:
        if self.stage is not None:
            raise ValueError(f"seeds runs no single stage, got {self.stage}: leave it out")
        if "seed" in self.model_fields_set:
            raise ValueError(f"--seed {self.seed}: give --seeds {self.seed} instead")
        if len({*self.seeds}) < len(self.seeds):
            raise ValueError(f"--seeds {','.join(map(str, self.seeds))}: a seed is given twice")
        return self
