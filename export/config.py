"""Every setting of the export, once: the field is the flag, the environment variable, the default and the help."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, PrivateAttr, StringConstraints, field_validator, model_validator
from pydantic_settings import CLI_SUPPRESS, CliPositionalArg, SettingsConfigDict

from swiftrec.export.data.columns import COLUMN_HELP, ColumnFlags
from swiftrec.export.data.order import BY_ROW, BY_TIME, Order
from swiftrec.export.data.repeats import EXCLUDE, Repeats
from swiftrec.export.gates import GATES, MIN_COLD_CASES, QUALITY
from swiftrec.export.training_settings import TrainingSettings
from swiftrec.server.settings_reader import require_utf8

BUNDLE_FLAGS = ("name", "artifacts", "preset", "data", "protocol")  # which name a bundle
ALL_PIECES, USED_PIECES = "all", "used"
_STUDENT = r"(static|bert[1-9]\d*(x[1-9]\d*)?)"


@dataclass(frozen=True, slots=True)
class Preset:
    """How long to train, and the students, from deep to static."""

    finetune_epochs: int
    distil_epochs: int
    students: tuple[str, ...] = ("bert3", "static")
    static_epochs: int = 30
    dimensions: int = 128
    max_history: int = 64
    max_tokens: int = 128
    training: Mapping[str, object] = field(default_factory=dict)  # fields of TrainingSettings that are not its defaults


PRESETS: dict[str, Preset] = {
    "quick": Preset(finetune_epochs=16, distil_epochs=3, training={"backbone_layers": "2", "passes": 3}),
    "full": Preset(
        finetune_epochs=40,
        distil_epochs=8,
        students=("bert4", "bert3", "bert2", "bert2x192", "bert1", "static"),
        static_epochs=40,
        training={"backbone_layers": "2", "passes": 8},
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


class JsonOutput(BaseModel):
    """The flag of a command that prints tables."""

    as_json: bool = Field(False, description="print JSON instead of tables")


class ExportSettings(TrainingSettings):
    """Fine-tune, distil, export to ONNX, quantise, verify and package a BERT text recommender.

    Without STAGE, runs every stage that is not up to date. With STAGE, runs only that one; the stages before it must
    have run.

    Other commands:
      swiftrec export teacher      compare the teacher with the baselines; runs the stages that it needs first
      swiftrec export seeds        the same for several seeds; with --whole also students and the default variant
      swiftrec export planted DIR  write a synthetic data set whose best possible metrics are known
      swiftrec export targets      compare each promised metric with what was measured
      swiftrec export where        print the folder of the bundle that these settings name; runs nothing

    swiftrec doctor checks a data set, swiftrec report prints size, speed and quality of a bundle.
    """

    model_config = SettingsConfigDict(
        env_prefix="SWIFTREC_EXPORT_",
        cli_prog_name="swiftrec export",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
    )

    stage: CliPositionalArg[str | None] = Field(
        None,
        description="one of data, finetune, blend, distil, onnx, quantise, verify, final, package, or a command "
        "above; all stages if not given",
    )
    preset: Literal["quick", "full", "smoke"] = Field(
        "quick",
        description="quick: 8 to 12 minutes on 2 cores; full: an hour or more; smoke: seconds, for tests",
    )
    data: Path | None = Field(
        None,
        description="folder with interactions and items (CSV, JSONL or Parquet; gzip and folders of parts, too); "
        "MovieLens-100K if not given",
    )
    checkpoint: str | None = Field(
        None,
        description="BERT checkpoint: a local folder or a hub id; packaged all-MiniLM-L6-v2 if not given",
    )
    adopt: Literal["auto", "always", "never"] = Field(
        "auto",
        description="use a checkpoint that is already a recommender without training: auto (classifiers; bi-encoders "
        "if there are no interactions), always, never",
    )
    on_error: Literal["stop", "skip"] = Field(
        "stop", description="invalid rows: stop and list them, or skip and count them"
    )
    name: Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]*)?$")] = Field(
        "", description="name of the bundle and of its folder under artifacts; data, preset and protocol if not given"
    )
    artifacts: Path = Field(Path("artifacts"), description="folder for bundles, stages and downloads")
    seed: int = Field(7, ge=0, description="random seed of training and evaluation")
    protocol: Literal["leave-one-out", "time"] = Field(
        "leave-one-out",
        description="train/test split: leave-one-out per user, or one time split",
    )

    repeats: Repeats = Field(
        EXCLUDE,
        description="a user's further interactions with an item: exclude (only the first counts, and what is in a "
        "history is not recommended) or allow (all count, and items may be recommended again: music, groceries)",
    )
    order: Order = Field(
        BY_TIME,
        description="how a user's interactions are sorted: time (their timestamps), file (the rows; timestamps are "
        "not read) or none (use when timestamps are missing or all the same: trains without order, and tests on items "
        "drawn at random)",
    )
    column: ColumnFlags = Field([], description=COLUMN_HELP)
    students: Annotated[str, StringConstraints(pattern=rf"^({_STUDENT}(,{_STUDENT})*)?$")] = Field(
        "",
        description="students in order, such as bert3,bert2x192,static (none deeper than one before it); the preset's "
        "if not given",
    )
    vocabulary: Annotated[str, StringConstraints(pattern=r"^(all|used|[1-9]\d*)$")] = Field(
        ALL_PIECES,
        description="word pieces that students know: 'all'; 'used' by the texts (with every letter, so that any word "
        "can be spelled), when size matters; or a number: keep that many",
    )
    int8_target: Literal["auto", "avx2", "avx512", "vnni", "arm64"] = Field(
        "auto", description="instruction set of the int8 graphs; auto: the form that is fastest on this machine"
    )
    tensorrt: bool = Field(
        False,
        description="also write fp16 graphs without fused operators, that TensorRT can run entirely (not tested on a "
        "GPU)",
    )
    allow_lossy: bool = Field(
        False,
        description="ship variants that fail a gate of loss, size or speed, or a teacher that ranks new items worse "
        "than the untouched checkpoint, and record the exception",
    )
    require_baselines: bool = Field(
        False,
        description="stop without a bundle if the default variant's NDCG@10 on a task is below a baseline's, or within "
        "a group of users below popularity's, by more than chance (95 % interval of the paired difference)",
    )

    _given: frozenset[str] = PrivateAttr(frozenset())

    @field_validator("data", "checkpoint")
    @classmethod
    def _is_utf8(cls, value: Path | str | None) -> Path | str | None:
        require_utf8(str(value), "rename the folder, since its name is written into the bundle")
        return value

    @model_validator(mode="after")
    def _name_from_data_and_preset(self) -> Self:
        if not self.name:
            by = "-time" if self.protocol == "time" else ""
            self.name = f"{_as_name(self.data.resolve().name) if self.data else 'movielens'}-{self.preset}{by}"
        return self

    @model_validator(mode="after")
    def _is_order_known(self) -> Self:
        if self.protocol == "time" and self.order != BY_TIME:
            raise ValueError(f"--protocol time needs the time of every interaction: not with --order {self.order}")
        if self.data is None and (self.order == BY_ROW or self.column):
            raise ValueError(
                "--order file and --column are about the tables of --data: give the folder that holds them"
            )
        return self

    @model_validator(mode="after")
    def _training_of_preset(self) -> Self:
        self._given = frozenset(self.model_fields_set)
        for name, value in self.plan.training.items():
            if name not in self._given:
                setattr(self, name, value)
        if self.lora and self.tuned_layers == 0:
            raise ValueError("lora needs layers to fine-tune: --backbone-layers K or all")
        if self.synonyms and not self.augment:
            raise ValueError("synonyms needs copies of the texts: --augment N")
        return self

    @property
    def bundle(self) -> Path:
        """Folder of the bundle's versions."""
        return self.artifacts / self.name

    def layers_to_tune(self, depth: int) -> int | None:
        """How many layers of a BERT of `depth` are fine-tuned, None for all; a preset means at most its number."""
        layers = self.tuned_layers
        return layers if layers is None or "backbone_layers" in self._given else min(layers, depth)

    @property
    def quality_gates(self) -> dict[str, dict[str, float]]:
        """The thresholds of stage `verify`, which is stale when they change."""
        thresholds = {"shipped": QUALITY.shipped, "default": QUALITY.default}
        return {name: dict(gates) for name, gates in thresholds.items()} | {"cold": {"cases": MIN_COLD_CASES}}

    @property
    def gates(self) -> dict[str, float]:
        """The thresholds of the gates; stages that read them are stale when they change."""
        return asdict(GATES)

    @property
    def student_names(self) -> tuple[str, ...]:
        """The students, from deep to static."""
        return tuple(self.students.split(",")) if self.students else self.plan.students

    @property
    def max_pieces(self) -> int | None:
        """How many word pieces students know at most, beyond those that they need; None: all of the checkpoint's."""
        if self.vocabulary == ALL_PIECES:
            return None
        return 0 if self.vocabulary == USED_PIECES else int(self.vocabulary)

    @property
    def plan(self) -> Preset:
        """The numbers of the preset."""
        return PRESETS[self.preset]


def show_in_help(kind: type[ExportSettings], names: Collection[str]) -> None:
    """Hide all other flags from the help of a command, which accepts them because the bundle is found by them."""
    for name, setting in kind.model_fields.items():
        if name not in names:
            setting.metadata = [*setting.metadata, CLI_SUPPRESS]


def _as_name(folder: str) -> str:
    """A folder's name in the characters that the name of a bundle may have: no accents, "-" for anything else."""
    plain = unicodedata.normalize("NFKD", folder).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("._-") or "data"
