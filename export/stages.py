"""The stages of an export in order: what each reads, and which settings and code change what it writes.

The code of a stage is its module's package, and what `code` names beside it: modules of the server that compute what
the stage measures or fits, and modules of export that belong to no earlier stage. Other code of the server, such as its
pipeline, changes no figure, so an edit there makes no stage stale.
"""

from __future__ import annotations

from dataclasses import dataclass

from export.train.options import TRAINING


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


_TOKENS = ("server.models.tokenizer",)
_SESSIONS = (
    *("server.models.networks", "server.models.session"),
    *("server.models.providers", "server.models.runtime"),
)
_SCORE = (
    *("server.catalogue.blend", "server.catalogue.history", "server.catalogue.sparse", "server.catalogue.words"),
    "server.parts",
)

STAGES: tuple[Stage, ...] = (
    Stage(
        "data",
        "export.data.collect",
        ("data", "checkpoint", "adopt", "on_error", "repeats", "order", "column", "seed", "max_tokens"),
        (),
        ("export.evaluate.metrics", "export.train.encoder", "server.text", *_TOKENS),
    ),
    Stage(
        "finetune",
        "export.train.finetune",
        ("seed", "finetune_epochs", "dimensions", "max_history", "max_tokens", "protocol", "repeats", *TRAINING),
        ("data",),
    ),
    Stage(
        "blend",
        "export.blend.stage",
        ("seed", "protocol", "repeats", "max_history"),
        ("data", "finetune"),
        (
            *(*_SCORE, "server.models.networks"),
            *("export.evaluate.models", "export.evaluate.subject"),
        ),
    ),
    Stage(
        "distil",
        "export.train.distil",
        ("seed", "students", "distil_epochs", "static_epochs", "relations", "vocabulary", "has_small_ranker"),
        ("data", "finetune", "blend"),
    ),
    Stage(
        "onnx",
        "export.compress.trace",
        ("max_history", "max_tokens", "tensorrt", "gates"),
        ("data", "finetune", "distil"),
        _SESSIONS,
    ),
    Stage(
        "quantise",
        "export.compress.quantise",
        ("seed", "max_tokens", "dimensions", "int8_target", "allow_lossy", "tensorrt", "gates"),
        ("data", "finetune", "onnx"),
    ),
    Stage(
        "verify",
        "export.evaluate.verify",
        ("seed", "protocol", "repeats", "allow_lossy", "require_baselines", "quality_gates", "small_ranker"),
        ("data", "finetune", "blend", "distil", "onnx", "quantise"),
    ),
    Stage(
        "final",
        "export.final.stage",
        ("seed", "protocol", "repeats", "max_history", "max_tokens", "distil_epochs", "gates", *TRAINING),
        ("data", "finetune", "blend", "distil", "onnx", "quantise", "verify"),
    ),
    Stage("package", "export.package.publish", ("name", "repeats", "gates"), ("blend", "verify", "final")),
)

EVALUATION = Stage("teacher", "export.evaluate.teacher", ("seed", "protocol", "repeats"), ("data", "finetune", "blend"))
"""What `python -m export teacher` and `python -m export seeds` run behind the stages up to the teacher."""
