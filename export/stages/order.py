"""The stages of an export in order: what each reads, and which settings and code change what it writes.

The code of a stage is its module's package, and what `code` names beside it: modules of the server that compute what
the stage measures or fits, and modules of export that belong to no earlier stage. Other code of the server, such as its
pipeline, changes no figure, so an edit there makes no stage stale.
"""

from __future__ import annotations

from dataclasses import dataclass

from swiftrec.export.train.options import TRAINING


@dataclass(frozen=True, slots=True)
class Stage:
    """A step of the export.

    Args:
        name: of the stage and its folder.
        module: has `run(job, out)`.
        settings: the fields that change what it writes.
        needs: the stages whose folders it reads.
        code: modules that its result depends on, beside those of its package and of the stages that it needs.
    """

    name: str
    module: str
    settings: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    code: tuple[str, ...] = ()


_TOKENS = ("swiftrec.server.models.tokenizer",)
_SESSIONS = (
    *("swiftrec.server.models.networks", "swiftrec.server.models.session"),
    *("swiftrec.server.models.providers", "swiftrec.server.models.runtime"),
)
_SCORE = (
    *(
        "swiftrec.server.catalogue.blend",
        "swiftrec.server.catalogue.history",
        "swiftrec.server.catalogue.sparse",
        "swiftrec.server.catalogue.words",
    ),
    "swiftrec.server.parts",
)

STAGES: tuple[Stage, ...] = (
    Stage(
        "data",
        "swiftrec.export.stages.data",
        ("data", "checkpoint", "adopt", "on_error", "repeats", "order", "column", "seed", "max_tokens"),
        (),
        ("swiftrec.export.evaluate.metrics", "swiftrec.export.models.encoder", "swiftrec.server.text", *_TOKENS),
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
        (
            *(*_SCORE, "swiftrec.server.models.networks"),
            *("swiftrec.export.evaluate.backends", "swiftrec.export.evaluate.recommender"),
        ),
    ),
    Stage(
        "distil",
        "swiftrec.export.stages.distil",
        ("seed", "students", "distil_epochs", "static_epochs", "vocabulary"),
        ("data", "finetune", "blend"),
    ),
    Stage(
        "onnx",
        "swiftrec.export.stages.onnx",
        ("max_history", "max_tokens", "tensorrt", "gates"),
        ("data", "finetune", "distil"),
        _SESSIONS,
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
"""What `swiftrec export teacher` and `swiftrec export seeds` run behind the stages up to the teacher."""
