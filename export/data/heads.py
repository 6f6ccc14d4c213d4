"""Heads as their makers write them: Hugging Face sequence classifiers, sentence-transformers folders, own teachers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from export.data.families import read_config, read_weights
from export.data.fields import read_object, read_objects
from export.data.head import Head, Shape
from export.data.ids import id_fault
from export.errors import CheckpointError

CheckpointKind = Literal["classifier", "bi-encoder", "encoder"]

OWN = ("teacher.json", "teacher.safetensors")  # of a teacher that an earlier export trained
_MODULES, _WEIGHTS = "modules.json", "model.safetensors"
# Model type -> names of the dense layer and of the last layer, and the activation between them.
_CLASSIFIERS: dict[str, tuple[str, str, Literal["tanh", "relu", "gelu"]]] = {
    "bert": ("bert.pooler.dense", "classifier", "tanh"),
    "distilbert": ("pre_classifier", "classifier", "relu"),
    "electra": ("classifier.dense", "classifier.out_proj", "gelu"),
    "roberta": ("classifier.dense", "classifier.out_proj", "tanh"),
    "xlm-roberta": ("classifier.dense", "classifier.out_proj", "tanh"),
    "camembert": ("classifier.dense", "classifier.out_proj", "tanh"),
}
_POOLINGS: dict[str, Literal["cls", "mean"]] = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean"}
_ENDS: tuple[list[str], ...] = ([], ["Dense"], ["Normalize"], ["Dense", "Normalize"])
_ACTIVATIONS: dict[str, Literal["tanh", "relu", "gelu", "identity"]] = {
    "Tanh": "tanh",
    "ReLU": "relu",
    "GELU": "gelu",
    "Identity": "identity",
}


def kind_of(folder: Path) -> CheckpointKind:
    """What `folder` holds, told by its configuration alone."""
    if (folder / _MODULES).exists() or (folder / OWN[0]).exists():
        return "bi-encoder"
    config = read_config(folder / "config.json")
    is_classifier = any(str(name).endswith("ForSequenceClassification") for name in config.get("architectures", []))
    return "classifier" if is_classifier else "encoder"


def trunk_folder(folder: Path) -> Path:
    """Where config, weights and tokenizer of the trunk lie: the folder, or one in it that its configuration names."""
    if (folder / OWN[0]).exists():
        return folder / "checkpoint"
    if (folder / _MODULES).exists():
        return folder / next((m["path"] for m in _modules(folder) if _is(m, "Transformer")), "")
    return folder


def read_head(folder: Path, kind: CheckpointKind) -> Head | None:
    """The head of a recommender; None for a plain encoder.

    Raises:
        CheckpointError: it has a form that is not known here; the sentence says which.
    """
    if kind == "classifier":
        return _classifier(folder)
    if kind == "encoder":
        return None
    return _own_teacher(folder) if (folder / OWN[0]).exists() else _bi_encoder(folder)


def _classifier(folder: Path) -> Head:
    """Softmax over W p + b: a label's vector is its row of W with b behind it, a text's is p with 1 behind it."""
    config, tensors = read_config(folder / "config.json"), read_weights(folder / _WEIGHTS)
    if config.get("model_type") not in _CLASSIFIERS:
        raise CheckpointError(f"{folder}: a classifier of type {config.get('model_type')!r} is not known here")
    dense, last, activation = _CLASSIFIERS[config["model_type"]]
    names = [f"{layer}.{part}" for layer in (dense, last) for part in ("weight", "bias")]
    missing = [name for name in names if name not in tensors]
    if missing:
        raise CheckpointError(f"{folder}: a classifier without {', '.join(missing)}: save it with save_pretrained")
    weight, bias, out_weight, out_bias = (tensors[name].float() for name in names)
    labels = _labels(config.get("id2label", {}), len(out_bias), folder / "config.json")
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
    if (head := Head.load(folder / "checkpoint")) is not None:
        return head
    weight = _tensor(folder / OWN[1], "projection.weight")
    return Head(Shape("bi-encoder", "mean"), weight, torch.zeros(len(weight)))


def _bi_encoder(folder: Path) -> Head:
    """Transformer, Pooling, perhaps Dense, perhaps Normalize (Reimers and Gurevych, EMNLP 2019)."""
    modules = _modules(folder)
    known = ("Transformer", "Pooling", "Dense", "Normalize")
    names = [next((k for k in known if _is(m, k)), m["type"]) for m in modules]
    if names[:2] != ["Transformer", "Pooling"] or names[2:] not in _ENDS:
        raise CheckpointError(
            f"{folder / _MODULES}: {' > '.join(names)} is not known here; known: Transformer > Pooling [> Dense] "
            "[> Normalize]. --adopt never uses only the encoder"
        )
    mode, similarity = _mode(folder / modules[1]["path"] / "config.json"), _similarity(folder, names)
    if "Dense" not in names:
        return Head(Shape("bi-encoder", mode, similarity=similarity))
    dense = folder / modules[2]["path"]
    config = read_object(dense / "config.json", {"activation_function": str})
    activation = config.get("activation_function", "Tanh").rsplit(".", 1)[-1]
    if activation not in _ACTIVATIONS:
        raise CheckpointError(f"{dense}: activation {activation} is not known; known: {', '.join(_ACTIVATIONS)}")
    weight = _tensor(dense / _WEIGHTS, "linear.weight")
    bias = read_weights(dense / _WEIGHTS).get("linear.bias", torch.zeros(len(weight))).float()
    return Head(Shape("bi-encoder", mode, _ACTIVATIONS[activation], similarity=similarity), weight, bias)


def _mode(path: Path) -> Literal["cls", "mean"]:
    chosen = [name for name, on in read_object(path).items() if name.startswith("pooling_mode") and on is True]
    if len(chosen) != 1 or chosen[0] not in _POOLINGS:
        raise CheckpointError(f"{path}: pools by {', '.join(chosen) or 'nothing'}; known: {', '.join(_POOLINGS)}, one")
    return _POOLINGS[chosen[0]]


def _similarity(folder: Path, modules: list[str]) -> Literal["cosine", "dot"]:
    path = folder / "config_sentence_transformers.json"
    named = read_object(path).get("similarity_fn_name") if path.exists() else None
    if named not in (None, "cosine", "dot"):
        raise CheckpointError(f"{path}: similarity_fn_name is {named!r}; known: cosine, dot")
    return "dot" if named == "dot" and "Normalize" not in modules else "cosine"


def _modules(folder: Path) -> list[dict[str, str]]:
    return read_objects(folder / _MODULES, ("type", "path"))


def _is(module: dict[str, str], kind: str) -> bool:
    return module["type"].rsplit(".", 1)[-1] == kind


def _tensor(path: Path, name: str) -> Tensor:
    tensors = read_weights(path)
    if name not in tensors:
        raise CheckpointError(f"{path}: holds no {name}: save the checkpoint again, whole")
    return tensors[name].float()
