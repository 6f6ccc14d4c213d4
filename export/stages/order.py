"""The stages of an export in order: the stages and settings that each reads.

Its code is its module with everything that the module imports (`export.fingerprint`).
"""

from __future__ import annotations

from dataclasses import dataclass

from swiftrec.export.training_settings import TRAINING


@dataclass(frozen=True, slots=True)
class Stage:
    """A step of the export.

    Args:
        name: of the stage and its folder.
        module: has `run(job, out)`.
        settings: the fields that change what it writes.
        needs: the stages whose folders it reads.
    """

    name: str
    module: str
    settings: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()


STAGES: tuple[Stage, ...] = (
    Stage(
        "data",
        "swiftrec.export.stages.data",
        ("data", "checkpoint", "adopt", "on_error", "repeats", "order", "column", "seed", "max_tokens"),
    ),
    Stage(
        "finetune",
        "swiftrec.export.stages.finetune",
        ("seed", "finetune_epochs", "dimensions", "max_history", "max_tokens", "protocol", "repeats", *TRAINING),
        ("data",),
    ),
    Stage(
        "blend",
        "swiftrec.export.stages.blend",
        ("seed", "protocol", "repeats", "max_history"),
        ("data", "finetune"),
    ),
    Stage(
        "distil",
        "swiftrec.export.stages.distil",
        ("seed", "student_names", "distil_epochs", "static_epochs", "vocabulary"),
        ("data", "finetune", "blend"),
    ),
    Stage(
        "onnx",
        "swiftrec.export.stages.onnx",
        ("max_history", "max_tokens", "tensorrt", "gates"),
        ("data", "finetune", "distil"),
    ),
    Stage(
        "quantise",
        "swiftrec.export.stages.quantise",
        ("seed", "max_tokens", "dimensions", "int8_target", "allow_lossy", "tensorrt", "gates"),
        ("data", "finetune", "onnx"),
    ),
    Stage(
        "verify",
        "swiftrec.export.stages.verify",
        ("seed", "protocol", "repeats", "allow_lossy", "require_baselines", "quality_gates"),
        ("data", "finetune", "blend", "distil", "onnx", "quantise"),
    ),
    Stage(
        "final",
        "swiftrec.export.stages.final",
        ("seed", "protocol", "repeats", "max_history", "max_tokens", "distil_epochs", "gates", *TRAINING),
        ("data", "finetune", "blend", "distil", "onnx", "quantise", "verify"),
    ),
    Stage("package", "swiftrec.export.stages.package", ("name", "repeats", "gates"), ("blend", "verify", "final")),
)

EVALUATION = Stage(
    "teacher", "swiftrec.export.stages.teacher", ("seed", "protocol", "repeats"), ("data", "finetune", "blend")
)
"""The evaluation of the teacher, before any student is trained."""

TEACHER_STAGES = (*(stage for stage in STAGES if stage.name in EVALUATION.needs), EVALUATION)
"""What `swiftrec export teacher` and `swiftrec export seeds` run."""
