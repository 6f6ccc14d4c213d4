"""Model families that can be expressed as a BERT: weights are renamed, so all later stages see one architecture.

RoBERTa (Liu et al., 2019) and its variants count positions from the padding id on: the rows of the position table
before that are removed. DistilBERT (Sanh et al., 2019) has no token types: its table gets one row of zeros. ELECTRA
(Clark et al., ICLR 2020) is a BERT if its embeddings are as wide as its layers. A test compares the vectors.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, BertConfig, BertModel

from swiftrec.export.checkpoints.fields import Config, read_object, require_values
from swiftrec.export.checkpoints.quiet import first_line
from swiftrec.export.checkpoints.weights import StateDict
from swiftrec.export.errors import CheckpointError

_POSITIONS = "embeddings.position_embeddings.weight"
_TYPES = "embeddings.token_type_embeddings.weight"
_DISTILBERT = (
    (r"^transformer\.layer", "encoder.layer"),
    (r"attention\.q_lin", "attention.self.query"),
    (r"attention\.k_lin", "attention.self.key"),
    (r"attention\.v_lin", "attention.self.value"),
    (r"attention\.out_lin", "attention.output.dense"),
    (r"\.sa_layer_norm", ".attention.output.LayerNorm"),
    (r"\.ffn\.lin1", ".intermediate.dense"),
    (r"\.ffn\.lin2", ".output.dense"),
    (r"\.output_layer_norm", ".output.LayerNorm"),
)
_LEGACY = ((r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias"))
_INTEGERS = (
    *("vocab_size", "hidden_size", "dim", "embedding_size", "intermediate_size", "hidden_dim", "num_hidden_layers"),
    *("n_layers", "num_attention_heads", "n_heads", "max_position_embeddings", "type_vocab_size", "pad_token_id"),
)
_SHAPING = {"model_type", "hidden_act", "activation", "layer_norm_eps", *_INTEGERS}
_KINDS = {
    **dict.fromkeys(("model_type", "position_embedding_type", "hidden_act", "activation"), str),
    **dict.fromkeys(_INTEGERS, int),
    "layer_norm_eps": float,
    "architectures": list,
    "id2label": dict,
}
# Fields that a BERT cannot express. Other fields of a config.json follow from the weights, or affect only training or
# outputs other than the vectors; unknown ones are found by comparing vectors with those of the checkpoint's own library
# (export/evaluate/checkpoint_library.py).
_SUPPORTED: dict[str, tuple[object, ...]] = {
    "position_embedding_type": ("absolute", None),
    "is_decoder": (False, None),
    "is_encoder_decoder": (False, None),
    "add_cross_attention": (False, None),
    "pruned_heads": ({}, None),
    "chunk_size_feed_forward": (0, None),
    "quantization_config": (None,),
    "auto_map": (None, {}),
}
_OTHER = "use a checkpoint with that value"
FUSED_ACTIVATIONS = (  # supported by the fusions of ONNX Runtime, exact or by tanh
    *("gelu", "gelu_python", "gelu_new", "gelu_fast", "gelu_accurate", "gelu_pytorch_tanh", "gelu_python_tanh"),
)
_BACKBONE = re.compile(r"^(embeddings\.(word|position|token_type)_embeddings|embeddings\.LayerNorm|encoder\.layer\.)")


@dataclass(frozen=True, slots=True)
class ModelFamily:
    """How one kind of checkpoint differs from BERT.

    Args:
        prefix: prefix of the backbone's tensors in a checkpoint with a head.
        names: (old, new) patterns of tensor names.
        counts_from_padding: whether positions are counted from the padding id on.
        activation: the field of config.json that names the activation.
        eps: epsilon of its layer norms if config.json does not have it.
        inner: the field of config.json with the width inside a layer.
    """

    prefix: str
    names: tuple[tuple[str, str], ...] = _LEGACY
    counts_from_padding: bool = False
    activation: str = "hidden_act"
    eps: float | None = None
    inner: str = "intermediate_size"


_ROBERTA = ModelFamily("roberta.", counts_from_padding=True)
FAMILIES: dict[str, ModelFamily] = {
    "bert": ModelFamily("bert."),
    "distilbert": ModelFamily("distilbert.", _DISTILBERT, activation="activation", eps=1e-12, inner="hidden_dim"),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "electra": ModelFamily("electra."),
}


def read_config(path: Path) -> Config:
    """Read `config.json`; the fields that the export uses have the right types.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    return read_object(path, _KINDS)


def family_of(config: Config, where: Path) -> ModelFamily:
    """The family that `config` names; `where` is its file.

    Raises:
        CheckpointError: the family is not supported, or BERT cannot express a field.
    """
    kind = config.get("model_type")
    if kind not in FAMILIES:
        raise CheckpointError(f"{where}: model_type is {kind!r}; use one of {', '.join(FAMILIES)}")
    require_values(where, config, _SUPPORTED, _OTHER)
    return FAMILIES[kind]


def bert_config(config: Config, where: Path) -> Config:
    """The config.json of the same encoder as a BERT; missing fields have the defaults of transformers for the family.

    Raises:
        CheckpointError: it is not supported, or contradicts itself.
    """
    family, full = family_of(config, where), _with_defaults(config)
    activation, heads, hidden = getattr(full, family.activation), full.num_attention_heads, full.hidden_size
    if activation not in FUSED_ACTIVATIONS:
        named = ", ".join(FUSED_ACTIVATIONS)
        raise CheckpointError(f"{where}: {family.activation} is {activation!r}; use one of {named}")
    if not hidden or not heads or heads < 1 or hidden % heads:
        raise CheckpointError(
            f"{where}: num_attention_heads is {heads}, needs to divide the width {hidden}: correct it"
        )
    if getattr(full, "embedding_size", hidden) != hidden:
        raise CheckpointError(
            f"{where}: embedding_size differs from hidden_size: use a checkpoint where they are equal"
        )
    shape = {
        "vocab_size": full.vocab_size,
        "hidden_size": hidden,
        "num_hidden_layers": full.num_hidden_layers,
        "intermediate_size": getattr(full, family.inner),
        "max_position_embeddings": full.max_position_embeddings,
        "type_vocab_size": getattr(full, "type_vocab_size", 1),
        "layer_norm_eps": full.layer_norm_eps if family.eps is None else family.eps,
        "num_attention_heads": heads,
    }
    for name, value in shape.items():
        if value is None or value <= 0:
            raise CheckpointError(f"{where}: {name} is {value}, needs to be a number above 0: correct it")
    shape["max_position_embeddings"] -= _padding_rows(config, where)
    return {"architectures": ["BertModel"], "model_type": "bert", "hidden_act": activation, **shape}


def check_config(folder: Path) -> None:
    """Refuse a config.json that transformers cannot read because of a field that is not the encoder's.

    Raises:
        CheckpointError: transformers cannot read it.
    """
    try:
        AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # each configuration class fails in its own way
        said = first_line(error)
        raise CheckpointError(f"{folder / 'config.json'}: transformers cannot read it ({said}): correct it") from error


def padding_id(config: Config, where: Path) -> int | None:
    """The padding id if the family counts positions from it; else None.

    Raises:
        CheckpointError: the family needs one and there is none.
    """
    if not FAMILIES[config["model_type"]].counts_from_padding:
        return None
    padding = _with_defaults(config).pad_token_id
    if padding is None or padding < 0:
        raise CheckpointError(f"{where}: pad_token_id is {padding}, needs to be the id of the padding: correct it")
    return int(padding)


def backbone_weights(tensors: StateDict, config: Config, shape: Config, where: Path) -> StateDict:
    """The backbone's tensors under BERT's names, float32; heads and layers beyond `shape` are left out.

    Args:
        tensors: the checkpoint's tensors.
        config: the checkpoint's config.json.
        shape: the result of `bert_config`.
        where: the checkpoint's folder.

    Raises:
        CheckpointError: tensors are missing, or their shapes differ from `config`.
    """
    family = FAMILIES[config["model_type"]]
    named = {_renamed(name, family): tensor for name, tensor in tensors.items()}
    weights = {name: tensor.float().contiguous() for name, tensor in named.items() if _BACKBONE.match(name)}
    if _POSITIONS in weights:
        weights[_POSITIONS] = weights[_POSITIONS][_padding_rows(config, where / "config.json") :].contiguous()
    if config["model_type"] == "distilbert":
        weights[_TYPES] = torch.zeros(1, shape["hidden_size"])
    shapes = _shapes(shape)
    for name, size in shapes.items():
        if name not in weights:
            raise CheckpointError(f"{where}: holds no {name}: save the whole model with save_pretrained")
        if (stored := tuple(weights[name].shape)) != size:
            raise CheckpointError(
                f"{where / 'config.json'}: {name} should have the shape {size}, the weights have {stored}: they "
                "are not from the same checkpoint"
            )
    return {name: weights[name] for name in shapes}


def _with_defaults(config: Config) -> Any:  # noqa: ANN401 (a configuration class of transformers)
    """The fields for the encoder's shape; missing ones have the defaults of transformers for the family."""
    return AutoConfig.for_model(**{name: value for name, value in config.items() if name in _SHAPING})


def _padding_rows(config: Config, where: Path) -> int:
    """Number of unused rows of the position table."""
    padding = padding_id(config, where)
    return 0 if padding is None else padding + 1


def _shapes(shape: Config) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of the BERT; allocates no memory."""
    with torch.device("meta"):
        model = BertModel(BertConfig(**shape), add_pooling_layer=False)  # type: ignore[no-untyped-call]
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _renamed(name: str, family: ModelFamily) -> str:
    name = name.removeprefix(family.prefix)
    for old, new in family.names:
        name = re.sub(old, new, name)
    return name
