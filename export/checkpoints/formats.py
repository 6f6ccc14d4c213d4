"""Formats of checkpoints: plain encoders, Hugging Face sequence classifiers, sentence-transformers, own teachers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from swiftrec.export.checkpoints.families import read_config
from swiftrec.export.checkpoints.head import Head, HeadShape
from swiftrec.export.checkpoints.sentence_transformers import is_bi_encoder, read_bi_encoder, transformer_folder
from swiftrec.export.checkpoints.weights import read_tensors, read_weights
from swiftrec.export.errors import CheckpointError
from swiftrec.export.ids import id_fault

CheckpointKind = Literal["classifier", "bi-encoder", "encoder"]

OWN = ("teacher.json", "teacher.safetensors")  # files of a teacher that an earlier export trained
# Model type -> names of the dense layer and of the last layer, and the activation between them.
CLASSIFIERS: dict[str, tuple[str, str, Literal["tanh", "relu", "gelu"]]] = {
    "bert": ("bert.pooler.dense", "classifier", "tanh"),
    "distilbert": ("pre_classifier", "classifier", "relu"),
    "electra": ("classifier.dense", "classifier.out_proj", "gelu"),
    "roberta": ("classifier.dense", "classifier.out_proj", "tanh"),
    "xlm-roberta": ("classifier.dense", "classifier.out_proj", "tanh"),
    "camembert": ("classifier.dense", "classifier.out_proj", "tanh"),
}


def kind_of(folder: Path) -> CheckpointKind:
    """The kind of the checkpoint in `folder`, by its configuration."""
    if is_bi_encoder(folder) or is_own(folder):
        return "bi-encoder"
    names = read_config(folder / "config.json").get("architectures") or []
    return "classifier" if any(str(name).endswith("ForSequenceClassification") for name in names) else "encoder"


def is_own(folder: Path) -> bool:
    """Whether `folder` is a teacher of an earlier export."""
    return (folder / OWN[0]).exists()


def backbone_folder(folder: Path) -> Path:
    """The folder with config, weights and tokenizer of the backbone: `folder` or one in it."""
    if is_own(folder):
        return folder / "checkpoint"
    return transformer_folder(folder) if is_bi_encoder(folder) else folder


def read_head(folder: Path, kind: CheckpointKind) -> Head | None:
    """The head of a recommender; None for a plain encoder.

    Raises:
        CheckpointError: the form is not supported; the sentence names it.
    """
    if kind == "classifier":
        return _classifier(folder)
    if kind == "encoder":
        return None
    return _own_teacher(folder) if is_own(folder) else read_bi_encoder(folder)


def _classifier(folder: Path) -> Head:
    """The head of softmax(W p + b): an item's vector is its row of W with b appended, a text's is p with 1 appended."""
    config, tensors = read_config(folder / "config.json"), read_weights(folder)
    if config.get("model_type") not in CLASSIFIERS:
        raise CheckpointError(
            f"{folder}: a classifier of type {config.get('model_type')!r} is not supported: use one of "
            f"{', '.join(CLASSIFIERS)}"
        )
    dense, last, activation = CLASSIFIERS[config["model_type"]]
    names = [f"{layer}.{part}" for layer in (dense, last) for part in ("weight", "bias")]
    missing = [name for name in names if name not in tensors]
    if missing:
        raise CheckpointError(f"{folder}: a classifier without {', '.join(missing)}: save it with save_pretrained")
    weight, bias, out_weight, out_bias = (tensors[name].float() for name in names)
    labels = _labels(config.get("id2label") or {}, len(out_bias), folder / "config.json")
    rows = torch.cat([out_weight, out_bias.unsqueeze(1)], dim=1)
    return Head(HeadShape("classifier", "cls", activation, with_one=True), weight, bias, labels, rows)


def _labels(named: dict[str, Any], rows: int, path: Path) -> tuple[str, ...]:
    """The item of each row; the keys must be "0" to the last row, else labels would belong to other rows."""
    remedy = "give each row its item_id there, or use --adopt never to use only the encoder"
    if not named or all(re.fullmatch(r"LABEL_\d+", str(label)) for label in named.values()):
        raise CheckpointError(f"{path}: id2label names no items: {remedy}")
    if len(named) != rows:
        raise CheckpointError(f"{path}: id2label names {len(named)} items, the head has {rows} rows: {remedy}")
    if invalid := [key for key in named if key not in {str(row) for row in range(rows)}]:
        raise CheckpointError(f"{path}: id2label has the key {invalid[0]!r}, needs 0 to {rows - 1}: {remedy}")
    labels = tuple(named[str(row)] for row in range(rows))
    if not_ids := [label for label in labels if not isinstance(label, str | int) or isinstance(label, bool)]:
        raise CheckpointError(f"{path}: id2label names {not_ids[0]!r}, which is not an item_id: {remedy}")
    for label in map(str, labels):
        if fault := id_fault(label):
            raise CheckpointError(
                f"{path}: id2label names {label[:60]!r}, which {fault}, so it is not an item_id: {remedy}"
            )
    if len({*map(str, labels)}) < rows:
        raise CheckpointError(f"{path}: id2label names an item twice: {remedy}")
    return tuple(map(str, labels))


def _own_teacher(folder: Path) -> Head:
    """The head of a teacher from an earlier export: mean pooling and a projection, or the head that it adopted."""
    weight = _tensor(folder / OWN[1], "projection.weight")
    if (head := Head.load(folder / "checkpoint")) is not None:
        return head
    return Head(HeadShape("bi-encoder", "mean"), weight, torch.zeros(len(weight)))


def _tensor(path: Path, name: str) -> Tensor:
    tensors = read_tensors(path)
    if name not in tensors:
        raise CheckpointError(f"{path}: holds no {name}: save the checkpoint again, whole")
    return tensors[name].float()
