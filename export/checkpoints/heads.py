"""Heads as their makers write them: Hugging Face sequence classifiers, sentence-transformers folders, own teachers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from swiftrec.export.checkpoints.families import read_config
from swiftrec.export.checkpoints.head import Head, Shape
from swiftrec.export.checkpoints.sentence_transformers import is_bi_encoder, read_bi_encoder, transformer_folder
from swiftrec.export.checkpoints.weights import read_tensors, read_weights
from swiftrec.export.data.ids import id_fault
from swiftrec.export.errors import CheckpointError

CheckpointKind = Literal["classifier", "bi-encoder", "encoder"]

OWN = ("teacher.json", "teacher.safetensors")  # of a teacher that an earlier export trained
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
    """What `folder` holds, told by its configuration alone."""
    if is_bi_encoder(folder) or is_own(folder):
        return "bi-encoder"
    names = read_config(folder / "config.json").get("architectures") or []
    return "classifier" if any(str(name).endswith("ForSequenceClassification") for name in names) else "encoder"


def is_own(folder: Path) -> bool:
    """Whether `folder` is a teacher of an earlier export."""
    return (folder / OWN[0]).exists()


def trunk_folder(folder: Path) -> Path:
    """Where config, weights and tokenizer of the trunk lie: the folder, or one in it that its configuration names."""
    if is_own(folder):
        return folder / "checkpoint"
    return transformer_folder(folder) if is_bi_encoder(folder) else folder


def read_head(folder: Path, kind: CheckpointKind) -> Head | None:
    """The head of a recommender; None for a plain encoder.

    Raises:
        CheckpointError: it has a form that is not known here; the sentence says which.
    """
    if kind == "classifier":
        return _classifier(folder)
    if kind == "encoder":
        return None
    return _own_teacher(folder) if is_own(folder) else read_bi_encoder(folder)


def _classifier(folder: Path) -> Head:
    """Softmax over W p + b: a label's vector is its row of W with b behind it, a text's is p with 1 behind it."""
    config, tensors = read_config(folder / "config.json"), read_weights(folder)
    if config.get("model_type") not in CLASSIFIERS:
        raise CheckpointError(f"{folder}: a classifier of type {config.get('model_type')!r} is not known here")
    dense, last, activation = CLASSIFIERS[config["model_type"]]
    names = [f"{layer}.{part}" for layer in (dense, last) for part in ("weight", "bias")]
    missing = [name for name in names if name not in tensors]
    if missing:
        raise CheckpointError(f"{folder}: a classifier without {', '.join(missing)}: save it with save_pretrained")
    weight, bias, out_weight, out_bias = (tensors[name].float() for name in names)
    labels = _labels(config.get("id2label") or {}, len(out_bias), folder / "config.json")
    rows = torch.cat([out_weight, out_bias.unsqueeze(1)], dim=1)
    return Head(Shape("classifier", "cls", activation, with_one=True), weight, bias, labels, rows)


def _labels(named: dict[str, Any], rows: int, path: Path) -> tuple[str, ...]:
    """The item of each row; "0" up to the last row must be the keys, else labels would move to other rows."""
    remedy = "give each row its item_id there, or --adopt never to use only the encoder"
    if not named or all(re.fullmatch(r"LABEL_\d+", str(label)) for label in named.values()):
        raise CheckpointError(f"{path}: id2label names no items: {remedy}")
    if len(named) != rows:
        raise CheckpointError(f"{path}: id2label names {len(named)} items, the head has {rows} rows: {remedy}")
    if strange := [key for key in named if key not in {str(row) for row in range(rows)}]:
        raise CheckpointError(f"{path}: id2label has the key {strange[0]!r}, needs 0 to {rows - 1}: {remedy}")
    labels = tuple(named[str(row)] for row in range(rows))
    if wrong := [label for label in labels if not isinstance(label, str | int) or isinstance(label, bool)]:
        raise CheckpointError(f"{path}: id2label names {wrong[0]!r}, which is no item_id: {remedy}")
    for label in map(str, labels):
        if fault := id_fault(label):
            raise CheckpointError(
                f"{path}: id2label names {label[:60]!r}, which {fault}, so it is no item_id: {remedy}"
            )
    if len({*map(str, labels)}) < rows:
        raise CheckpointError(f"{path}: id2label names an item twice: {remedy}")
    return tuple(map(str, labels))


def _own_teacher(folder: Path) -> Head:
    """What stage `finetune` of an earlier export wrote: mean pooling and a projection, or the head that it adopted."""
    weight = _tensor(folder / OWN[1], "projection.weight")
    if (head := Head.load(folder / "checkpoint")) is not None:
        return head
    return Head(Shape("bi-encoder", "mean"), weight, torch.zeros(len(weight)))


def _tensor(path: Path, name: str) -> Tensor:
    tensors = read_tensors(path)
    if name not in tensors:
        raise CheckpointError(f"{path}: holds no {name}: save the checkpoint again, whole")
    return tensors[name].float()
