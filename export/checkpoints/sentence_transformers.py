"""Folders of sentence-transformers: each field of their files is supported, or refused by name.

A folder is a sequence of modules (Reimers and Gurevych, EMNLP 2019): Transformer, Pooling, then optionally Dense and
Normalize. The file formats before and since version 5.4 are read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from swiftrec.export.checkpoints.families import read_config
from swiftrec.export.checkpoints.fields import Config, read_object, read_objects, require_known, require_values
from swiftrec.export.checkpoints.head import Head, HeadShape
from swiftrec.export.checkpoints.weights import WEIGHTS, read_tensors
from swiftrec.export.errors import CheckpointError

MODULES = "modules.json"
_MAIN = "config_sentence_transformers.json"
_PACKAGE = "sentence_transformers."
_KNOWN = ("Transformer", "Pooling", "Dense", "Normalize")
_ENDS: tuple[list[str], ...] = ([], ["Dense"], ["Normalize"], ["Dense", "Normalize"])
_NEVER = "use another checkpoint, or use only its encoder with --adopt never"
_OTHER = "use a checkpoint without it"

# The first file that exists is read; old versions name it after the family.
_TRANSFORMER_FILES = [
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
]
_EMPTY: tuple[object, ...] = (None, {})
_TRANSFORMER: dict[str, tuple[object, ...]] = {
    "transformer_task": ("feature-extraction",),
    "modality_config": ({"text": {"method": "forward", "method_output_name": "last_hidden_state"}},),
    "module_output_name": ("token_embeddings",),
    "tokenizer_name_or_path": (None,),
    "processing_kwargs": _EMPTY,
    **{
        f"{part}_{kind}": _EMPTY
        for part in ("model", "tokenizer", "processor", "config")
        for kind in ("args", "kwargs")
    },
}
# `unpad_inputs` changes the memory layout of a batch, not its vectors.
_TRANSFORMER_KNOWN = {*_TRANSFORMER, "max_seq_length", "do_lower_case", "unpad_inputs"}

# `kwargs` names arguments of `encode()` that a module accepts; the export uses none.
_MODULE_KNOWN = ("idx", "name", "path", "type", "kwargs")
_MAIN_VALUES: dict[str, tuple[object, ...]] = {
    "model_type": ("SentenceTransformer",),
    "truncate_dim": (None,),
    "similarity_fn_name": (None, "cosine", "dot"),
}
_MAIN_KNOWN = {*_MAIN_VALUES, "__version__", "prompts", "default_prompt_name"}

_MODES: dict[str, Literal["cls", "mean"]] = {"cls": "cls", "mean": "mean"}
_OLD_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_WIDTHS = ("embedding_dimension", "word_embedding_dimension")
# `include_prompt` matters only with a prompt, and default prompts are refused.
_POOLING_KINDS: dict[str, type] = {
    **dict.fromkeys(_OLD_MODES, bool),
    **dict.fromkeys(_WIDTHS, int),
    "include_prompt": bool,
}
_POOLING_KNOWN = {*_POOLING_KINDS, "pooling_mode"}

_ACTIVATIONS: dict[str, Literal["tanh", "relu", "gelu", "identity"]] = {
    "Tanh": "tanh",
    "ReLU": "relu",
    "GELU": "gelu",
    "Identity": "identity",
}
_DENSE: dict[str, tuple[object, ...]] = {
    "module_input_name": ("sentence_embedding",),
    "module_output_name": (None, "sentence_embedding"),
}
_DENSE_KNOWN = {*_DENSE, "in_features", "out_features", "bias", "activation_function"}


@dataclass(frozen=True, slots=True)
class TextSettings:
    """Settings of texts in `file`: whether they are lower-cased, and the number of tokens they are truncated to."""

    lower: bool = False
    max_tokens: int | None = None
    file: Path | None = None


def is_bi_encoder(folder: Path) -> bool:
    """Whether `folder` was saved by sentence-transformers."""
    return (folder / MODULES).exists()


def transformer_folder(folder: Path) -> Path:
    """The folder of the encoder's config, weights and tokenizer."""
    path = next((module["path"] for module in _modules(folder) if _kind(module) == "Transformer"), "")
    return folder / path


def read_text_settings(folder: Path) -> TextSettings:
    """The settings of texts in the file of the Transformer module; `folder` is `transformer_folder`.

    Raises:
        CheckpointError: a field is not supported.
    """
    file = next((folder / name for name in _TRANSFORMER_FILES if (folder / name).exists()), None)
    if file is None:
        return TextSettings()
    fields = read_object(file, {"max_seq_length": int, "do_lower_case": bool})
    require_known(file, fields, _TRANSFORMER_KNOWN, _OTHER)
    require_values(file, fields, _TRANSFORMER, "use a checkpoint with that value")
    return TextSettings(bool(fields.get("do_lower_case")), fields.get("max_seq_length"), file)


def read_bi_encoder(folder: Path) -> Head:
    """How the folder's modules pool and compare vectors.

    Raises:
        CheckpointError: the form is not supported; the sentence names it.
    """
    modules = _modules(folder)
    for module in modules:
        require_known(folder / MODULES, module, _MODULE_KNOWN, _NEVER)
    names = [_kind(module) for module in modules]
    if names[:2] != ["Transformer", "Pooling"] or names[2:] not in _ENDS:
        shown = " > ".join(names) or "no module"
        raise CheckpointError(
            f"{folder / MODULES}: {shown} is not supported, supported is Transformer > Pooling [> Dense] "
            f"[> Normalize]: {_NEVER}"
        )
    similarity = _similarity(folder, names)
    mode = _mode(folder / modules[1]["path"] / "config.json", _width(folder))
    if "Dense" not in names:
        return Head(HeadShape("bi-encoder", mode, similarity=similarity))
    return _dense(folder / modules[2]["path"], mode, similarity)


def remarks(folder: Path, max_tokens: int) -> list[str]:
    """Settings of the folder that the export does not use, one line each; it truncates texts to `max_tokens` tokens."""
    lines = []
    longest = read_text_settings(transformer_folder(folder)).max_tokens
    if longest is not None and longest != max_tokens:
        lines.append(f"texts are truncated to {max_tokens} tokens; max_seq_length of the checkpoint is {longest}")
    main = read_object(folder / _MAIN, {"prompts": dict}) if (folder / _MAIN).exists() else {}
    if prompts := [name for name, text in (main.get("prompts") or {}).items() if text]:
        lines.append(f"prompts of the checkpoint are not used: {', '.join(prompts)}")
    return lines


def _width(folder: Path) -> int | None:
    config = read_config(transformer_folder(folder) / "config.json")
    width: int | None = config.get("hidden_size", config.get("dim"))
    return width


def _mode(path: Path, width: int | None) -> Literal["cls", "mean"]:
    """The pooling: `pooling_mode`, or in the old format the flag that is true (none: the mean)."""
    fields = read_object(path, _POOLING_KINDS)
    require_known(path, fields, _POOLING_KNOWN, _NEVER)
    flags = [name for name in _OLD_MODES if fields.get(name)]
    given = fields.get("pooling_mode")
    chosen = [_OLD_MODES[name] for name in flags] or ["mean"] if given is None else given
    chosen = chosen if isinstance(chosen, list) else [chosen]
    if len(chosen) != 1 or chosen[0] not in _MODES:
        said = f"{' and '.join(flags)} is true" if given is None else f"pooling_mode is {given!r}"
        raise CheckpointError(f"{path}: {said}, supported is one of {', '.join(_MODES)}: {_NEVER}")
    for name in _WIDTHS:
        if width is not None and fields.get(name, width) != width:
            raise CheckpointError(
                f"{path}: {name} is {fields[name]}, the encoder gives {width}: they are not from the same checkpoint"
            )
    return _MODES[chosen[0]]


def _similarity(folder: Path, modules: list[str]) -> Literal["cosine", "dot"]:
    path = folder / _MAIN
    fields = read_object(path, {"prompts": dict, "default_prompt_name": str}) if path.exists() else {}
    require_known(path, fields, _MAIN_KNOWN, _NEVER)
    require_values(path, fields, _MAIN_VALUES, _NEVER)
    _check_prompt(path, fields)
    return "dot" if fields.get("similarity_fn_name") == "dot" and "Normalize" not in modules else "cosine"


def _check_prompt(path: Path, fields: Config) -> None:
    """Refuse a default prompt."""
    name, prompts = fields.get("default_prompt_name"), fields.get("prompts") or {}
    if name is not None and (name not in prompts or prompts[name]):
        raise CheckpointError(
            f"{path}: default_prompt_name is {name!r}, but the export uses no prompts: set it to null if vectors "
            "without it are acceptable, or use --adopt never"
        )


def _dense(folder: Path, mode: Literal["cls", "mean"], similarity: Literal["cosine", "dot"]) -> Head:
    path = folder / "config.json"
    fields = read_object(path, {"activation_function": str, "in_features": int, "out_features": int, "bias": bool})
    require_known(path, fields, _DENSE_KNOWN, _NEVER)
    require_values(path, fields, _DENSE, _NEVER)
    activation = _activation(fields.get("activation_function", "torch.nn.Tanh"), path)
    tensors = read_tensors(folder / WEIGHTS)
    if "linear.weight" not in tensors:
        raise CheckpointError(f"{folder / WEIGHTS}: holds no linear.weight: save the checkpoint again, whole")
    weight = tensors["linear.weight"].float()
    bias = tensors.get("linear.bias")
    declared = (fields.get("out_features"), fields.get("in_features"), fields.get("bias", True))
    stored = (*weight.shape, bias is not None)
    if declared != stored:
        raise CheckpointError(
            f"{path}: out_features, in_features and bias are {declared}, {WEIGHTS} has {stored}: they are not from "
            "the same checkpoint"
        )
    shape = HeadShape("bi-encoder", mode, activation, similarity=similarity)
    return Head(shape, weight, torch.zeros(len(weight)) if bias is None else bias.float())


def _activation(name: str | None, path: Path) -> Literal["tanh", "relu", "gelu", "identity"]:
    kind = (name or "").rsplit(".", 1)[-1]
    if not (name or "").startswith("torch.nn.") or kind not in _ACTIVATIONS:
        known = ", ".join(f"torch.nn.{activation}" for activation in _ACTIVATIONS)
        raise CheckpointError(f"{path}: activation_function is {name!r}, supported are {known}: {_NEVER}")
    return _ACTIVATIONS[kind]


def _modules(folder: Path) -> list[Config]:
    rows = read_objects(folder / MODULES, ("type", "path"))
    for row in rows:
        if not (folder / row["path"]).resolve().is_relative_to(folder.resolve()):
            raise CheckpointError(f"{folder / MODULES}: path {row['path']!r} is outside the folder: correct it")
    return rows


def _kind(module: Config) -> str:
    """The module's class name if it is a supported one of sentence-transformers; else its full name."""
    kind = str(module["type"])
    last = kind.rsplit(".", 1)[-1]
    return last if kind.startswith(_PACKAGE) and last in _KNOWN else kind
