"""Every setting of the export, once: the field is the flag, the environment variable, the default and the help."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator
from pydantic_settings import BaseSettings, CliPositionalArg, SettingsConfigDict

StageName = Literal["data", "finetune", "distil", "onnx", "quantise", "verify", "package"]


@dataclass(frozen=True, slots=True)
class Preset:
    """How long to train, and the ladder of students from deep to none."""

    finetune_epochs: int
    distil_epochs: int
    students: tuple[str, ...] = ("bert3", "static")
    static_epochs: int = 30
    dimensions: int = 128
    max_history: int = 64
    max_tokens: int = 128


PRESETS: dict[str, Preset] = {
    "quick": Preset(finetune_epochs=20, distil_epochs=3),
    "full": Preset(
        finetune_epochs=40,
        distil_epochs=12,
        students=("bert4", "bert3", "bert2", "bert2x192", "bert1", "static"),
        static_epochs=40,
    ),
    "smoke": Preset(
        finetune_epochs=1,
        distil_epochs=1,
        students=("bert1", "static"),
        static_epochs=1,
        dimensions=32,
        max_history=16,
    ),
}


class ExportSettings(BaseSettings):
    """Fine-tune, distil, export to ONNX, quantise, verify and package a BERT text recommender.

    Without STAGE every stage runs that is not fresh. With STAGE only that one runs; the stages before it must be there.
    """

    model_config = SettingsConfigDict(
        env_prefix="SWIFTREC_EXPORT_",
        cli_prog_name="python -m export",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
    )

    stage: CliPositionalArg[StageName | None] = Field(
        None, description="one of data, finetune, distil, onnx, quantise, verify, package; all if not given"
    )
    preset: Literal["quick", "full", "smoke"] = Field(
        "quick",
        description="quick: about 4 minutes on 2 cores; full: twice as long; smoke: seconds, for tests",
    )
    data: Path | None = Field(
        None,
        description="folder with interactions and items (CSV, JSONL or Parquet); MovieLens-100K if not given",
    )
    checkpoint: str | None = Field(
        None,
        description="BERT checkpoint: a local folder or a hub id; packaged all-MiniLM-L6-v2 if not given",
    )
    name: Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]*)?$")] = Field(
        "", description="name of the bundle and of its folder under artifacts; data and preset if not given"
    )
    artifacts: Path = Field(Path("artifacts"), description="folder for bundles, stages and downloads")
    seed: int = Field(7, ge=0, description="seed of everything that is random")
    min_text_retained: float = Field(
        0.95, ge=0, le=1, description="gate: share of the teacher's NDCG@10 on text that the bundle must keep"
    )
    min_query_retained: float = Field(
        0.95, ge=0, le=1, description="gate: share of the teacher's query precision that the bundle must keep"
    )

    @model_validator(mode="after")
    def _name_from_data_and_preset(self) -> Self:
        if not self.name:
            self.name = f"{self.data.resolve().name if self.data else 'movielens'}-{self.preset}"
        return self

    @property
    def plan(self) -> Preset:
        """The preset's numbers."""
        return PRESETS[self.preset]
