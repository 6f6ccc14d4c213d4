"""BERT's relatives as what they are: a BERT. Renamed weights let every later stage know one architecture.

RoBERTa (Liu et al., 2019) and its kin count positions from the padding id on: their table of positions is cut by that.
DistilBERT (Sanh et al., 2019) has no token types: a table of one row of zeros stands in. ELECTRA (Clark et al., ICLR
2020) is a BERT where its embeddings are as wide as its layers. The vectors are the same to rounding; a test holds it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers.activations import ACT2FN

from export.data.fields import Config, read_object
from export.errors import CheckpointError

Weights = dict[str, Tensor]

_WORDS = "embeddings.word_embeddings.weight"
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
_KINDS = {
    **dict.fromkeys(("model_type", "position_embedding_type", "hidden_act", "activation"), str),
    **dict.fromkeys(("hidden_size", "embedding_size", "pad_token_id", "num_attention_heads", "n_heads"), int),
    "layer_norm_eps": float,
    "architectures": list,
    "id2label": dict,
}
_TRUNK = re.compile(r"^(embeddings\.(word|position|token_type)_embeddings|embeddings\.LayerNorm|encoder\.layer\.)")


@dataclass(frozen=True, slots=True)
class Family:
    """How one kind of checkpoint differs: the prefix of its trunk, names to change, positions counted from padding."""

    prefix: str
    names: tuple[tuple[str, str], ...] = _LEGACY
    counts_from_padding: bool = False


_ROBERTA = Family("roberta.", counts_from_padding=True)
FAMILIES: dict[str, Family] = {
    "bert": Family("bert."),
    "distilbert": Family("distilbert.", _DISTILBERT),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "electra": Family("electra."),
}


def read_config(path: Path) -> Config:
    """A `config.json` in which whatever is read here is of its kind.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    return read_object(path, _KINDS)


def family_of(config: Config, where: object) -> Family:
    """The family that `config` names.

    Raises:
        CheckpointError: no relative of BERT, or a form of one that BERT cannot express.
    """
    kind = config.get("model_type")
    if kind not in FAMILIES:
        raise CheckpointError(f"{where}: model_type is {kind!r}; use one of {', '.join(FAMILIES)}")
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise CheckpointError(f"{where}: position_embedding_type is not 'absolute': use a checkpoint that has it so")
    if config.get("embedding_size", config.get("hidden_size")) != config.get("hidden_size"):
        raise CheckpointError(f"{where}: embedding_size differs from hidden_size: use a checkpoint where they are one")
    return FAMILIES[kind]


def read_weights(path: Path) -> Weights:
    """The tensors of a safetensors file.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}): save it again") from None


def bert_config(config: Config, weights: Weights, where: object) -> Config:
    """The same encoder as a BERT's config.json; sizes are those of `weights` (named as BERT's).

    Raises:
        CheckpointError: what weights do not tell is missing, or does not go with them.
    """
    activation = config.get("hidden_act", config.get("activation"))
    heads = config.get("num_attention_heads", config.get("n_heads"))
    vocabulary, hidden = weights[_WORDS].shape
    if activation not in ACT2FN:
        raise CheckpointError(f"{where}: hidden_act is {activation!r}; use one of {', '.join(ACT2FN)}")
    if not heads or heads < 1 or hidden % heads:
        raise CheckpointError(
            f"{where}: num_attention_heads is {heads}, needs to divide the width {hidden}: correct it"
        )
    layers = {int(match[1]) for name in weights if (match := re.match(r"encoder\.layer\.(\d+)\.", name))}
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "num_hidden_layers": len(layers),
        "intermediate_size": weights["encoder.layer.0.intermediate.dense.weight"].shape[0],
        "max_position_embeddings": len(weights[_POSITIONS]),
        "type_vocab_size": len(weights[_TYPES]),
        "layer_norm_eps": config.get("layer_norm_eps", 1e-12),
        "hidden_act": activation,
        "num_attention_heads": heads,
    }


def trunk_weights(tensors: Weights, config: Config, where: object) -> Weights:
    """The trunk's tensors under BERT's names, float32; heads and everything else are left out.

    Raises:
        CheckpointError: tensors of the trunk are missing.
    """
    family = family_of(config, where)
    named = {_renamed(name, family): tensor for name, tensor in tensors.items()}
    weights = {name: tensor.float().contiguous() for name, tensor in named.items() if _TRUNK.match(name)}
    for name in (_WORDS, _POSITIONS, "encoder.layer.0.intermediate.dense.weight"):
        if name not in weights:
            raise CheckpointError(f"{where}: holds no {name}: save the whole model with save_pretrained")
    if family.counts_from_padding:
        weights[_POSITIONS] = weights[_POSITIONS][config.get("pad_token_id", 1) + 1 :].contiguous()
    weights.setdefault(_TYPES, torch.zeros(1, weights[_WORDS].shape[1]))
    return weights


def _renamed(name: str, family: Family) -> str:
    name = name.removeprefix(family.prefix)
    for old, new in family.names:
        name = re.sub(old, new, name)
    return name
