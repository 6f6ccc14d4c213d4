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
        typical_share: of an export's time, quick preset on MovieLens, for the time left before it has run once; None
            if unknown.
    """

    name: str
    module: str
    settings: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    typical_share: float | None = None


STAGES: tuple[Stage, ...] = (
    Stage(
        "data",
        "swiftrec.export.stages.data",
        ("data", "checkpoint", "adopt", "on_error", "repeats", "order", "column", "seed", "max_tokens"),
        typical_share=0.01,
    ),
    Stage(
        "finetune",
        "swiftrec.export.stages.finetune",
        ("seed", "finetune_epochs", "dimensions", "max_history", "max_tokens", "protocol", "repeats", *TRAINING),
        ("data",),
        typical_share=0.43,
    ),
    Stage(
        "blend",
        "swiftrec.export.stages.blend",
        ("seed", "protocol", "repeats", "max_history"),
        ("data", "finetune"),
        typical_share=0.045,
    ),
    Stage(
        "distil",
        "swiftrec.export.stages.distil",
        ("seed", "student_names", "distil_epochs", "static_epochs", "vocabulary"),
        ("data", "finetune", "blend"),
        typical_share=0.17,
    ),
    Stage(
        "onnx",
        "swiftrec.export.stages.onnx",
        ("max_history", "max_tokens", "tensorrt", "gates"),
        ("data", "finetune", "distil"),
        typical_share=0.005,
    ),
    Stage(
        "quantise",
        "swiftrec.export.stages.quantise",
        ("seed", "max_tokens", "dimensions", "int8_target", "allow_lossy", "tensorrt", "gates"),
        ("data", "finetune", "onnx"),
        typical_share=0.03,
    ),
    Stage(
        "verify",
        "swiftrec.export.stages.verify",
        ("seed", "protocol", "repeats", "allow_lossy", "require_baselines", "quality_gates"),
        ("data", "finetune", "blend", "distil", "onnx", "quantise"),
        typical_share=0.06,
    ),
    Stage(
        "final",
        "swiftrec.export.stages.final",
        ("seed", "protocol", "repeats", "max_history", "max_tokens", "distil_epochs", "gates", *TRAINING),
        ("data", "finetune", "blend", "distil", "onnx", "quantise", "verify"),
        typical_share=0.245,
    ),
    Stage(
        "package", "swiftrec.export.stages.package", ("name", "repeats", "gates"), ("blend", "verify", "final"), 0.005
    ),
)

EVALUATION = Stage(
    "teacher", "swiftrec.export.stages.teacher", ("seed", "protocol", "repeats"), ("data", "finetune", "blend")
)
"""The evaluation of the teacher, before any student is trained."""

TEACHER_STAGES = (*(stage for stage in STAGES if stage.name in EVALUATION.needs), EVALUATION)
"""What `swiftrec export teacher` and `swiftrec export seeds` run."""
