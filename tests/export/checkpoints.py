"""Tiny random checkpoints of BERT and its relatives, saved as their makers save them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel

WORDS = ["red", "green", "blue", "small", "large", "round", "flat", "soft", "lamp", "chair", "table", "vase"]
HIDDEN = 32
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
_SIZES = {"hidden_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
_DISTIL_SIZES = {"dim": HIDDEN, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}
_KINDS: dict[str, tuple[str, str]] = {  # family -> the transformers classes' stem, and the padding token
    "bert": ("Bert", "[PAD]"),
    "distilbert": ("DistilBert", "[PAD]"),
    "electra": ("Electra", "[PAD]"),
    "roberta": ("Roberta", "<pad>"),
    "xlm-roberta": ("XLMRoberta", "<pad>"),
    "camembert": ("Camembert", "<pad>"),
}
FAMILIES = tuple(_KINDS)


def vocabulary(family: str) -> dict[str, int]:
    """Special tokens where the family has them (RoBERTa's padding is 1), then words."""
    is_roberta = _KINDS[family][1] == "<pad>"
    special = ["<s>", "<pad>", "</s>", "<unk>"] if is_roberta else _SPECIAL
    return {word: n for n, word in enumerate([*special, *WORDS, "good", "a"])}


def save_model(family: str, folder: Path, task: str = "Model", **config: Any) -> Any:  # noqa: ANN401
    """Save a random model of `family` ("Model", "ForSequenceClassification", ...) with its tokenizer; return it."""
    stem = _KINDS[family][0]
    sizes = (
        _DISTIL_SIZES if family == "distilbert" else _SIZES | ({"embedding_size": HIDDEN} if stem == "Electra" else {})
    )
    words = vocabulary(family)
    config = {"vocab_size": len(words), "initializer_range": 0.3, **sizes, **config}
    torch.manual_seed(1)
    model = getattr(transformers, stem + task)(getattr(transformers, f"{stem}Config")(**config)).eval()
    model.save_pretrained(folder)
    save_tokenizer(words, folder / "tokenizer.json")
    return model


def bert(words: int, *, width: int = HIDDEN, layers: int = 2, heads: int = 4, **config: Any) -> BertModel:  # noqa: ANN401
    """A random BERT that knows `words` ids, the same each time."""
    torch.manual_seed(0)
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    config = {"vocab_size": words, "intermediate_size": 2 * width, "attn_implementation": "eager", **sizes, **config}
    return BertModel(BertConfig(**config), add_pooling_layer=False)  # type: ignore[no-untyped-call]


def save_bert(folder: Path, words: list[str], **shape: int) -> None:
    """Save such a BERT of BERT's special tokens, `words` and "##" pieces, with its tokenizer."""
    known = {word: n for n, word in enumerate([*_SPECIAL, *words])}
    bert(len(known), **shape).save_pretrained(folder)
    save_tokenizer(known, folder / "tokenizer.json")


def save_tokenizer(words: dict[str, int], path: Path) -> None:
    """Words and word pieces, with the family's tokens around a text."""
    first, last, unknown = ("<s>", "</s>", "<unk>") if "<s>" in words else ("[CLS]", "[SEP]", "[UNK]")
    tokenizer = Tokenizer(models.WordPiece(words, unk_token=unknown))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing((last, words[last]), (first, words[first]))
    tokenizer.save(str(path))


def save_sentence_transformer(
    family: str, folder: Path, mode: str = "mean_tokens", dense: int = 0, *, unit: bool = True
) -> Any:  # noqa: ANN401
    """Save a random sentence-transformers folder: transformer, pooling, a layer of `dense` units if any, normalise."""
    backbone = save_model(family, folder)
    add_modules(folder, HIDDEN, mode, dense, unit=unit)
    return backbone


def add_modules(folder: Path, hidden: int, mode: str = "mean_tokens", dense: int = 0, *, unit: bool = True) -> None:
    """Make an encoder's folder one of sentence-transformers, in the form of versions before 5.4."""
    kinds = ["Transformer", "Pooling", *(["Dense"] if dense else []), *(["Normalize"] if unit else [])]
    modules = [
        {"idx": n, "name": str(n), "path": f"{n}_{kind}" if n else "", "type": f"sentence_transformers.models.{kind}"}
        for n, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": hidden, f"pooling_mode_{mode}": True, "pooling_mode_max_tokens": False}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    if dense:
        (folder / "2_Dense").mkdir()
        activation = {"in_features": hidden, "out_features": dense, "activation_function": "torch.nn.modules.Tanh"}
        (folder / "2_Dense" / "config.json").write_text(json.dumps(activation))
        tensors = {"linear.weight": torch.randn(dense, hidden), "linear.bias": torch.randn(dense)}
        save_file(tensors, folder / "2_Dense" / "model.safetensors")
