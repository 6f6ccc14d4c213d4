"""A tiny bi-encoder with all the files that sentence-transformers and transformers read, and a comparison with both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch.nn import functional
from transformers import AutoTokenizer, BertTokenizerFast

from swiftrec.export.checkpoints.checkpoint import locate
from swiftrec.export.models.encoder import TextEncoder, load_bert, load_tokenizer, pad
from swiftrec.export.stages.data import write_verified
from tests.export.checkpoints import HIDDEN, add_modules, save_model

_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789éÉß北'.,:-_"
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_WORDS = ["red", "Red", "green", "lamp", "Lamp", "cafe", "café", "CAFÉ", "query"]
_PIECES = [*dict.fromkeys([*_SPECIAL, *_WORDS, *_LETTERS, *("##" + letter for letter in _LETTERS)])]
TEXTS = ["Red Lamp", "red lamp", "CAFÉ-table, 12", "x " * 60, "北x [MASK] red", " a\u0301 ", "lamp"]

SENTENCE, MAIN = "sentence_bert_config.json", "config_sentence_transformers.json"
POOLING, DENSE, CONFIG = "1_Pooling/config.json", "2_Dense/config.json", "config.json"
TOKENS = "tokenizer_config.json"
ABSENT = object()
TRUNCATION = {"direction": "Right", "max_length": 128, "strategy": "LongestFirst", "stride": 0}


def bi_encoder(folder: Path, *, dense: int = 0) -> Path:
    """A random bi-encoder whose vocabulary distinguishes case and accents."""
    save_model("bert", folder, vocab_size=len(_PIECES), num_hidden_layers=2)
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("\n".join(_PIECES) + "\n", encoding="utf-8")
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=512)  # type: ignore[no-untyped-call]
    tokenizer.save_pretrained(folder)
    add_modules(folder, HIDDEN, dense=dense)
    (folder / SENTENCE).write_text('{"max_seq_length": 128, "do_lower_case": false}')
    (folder / MAIN).write_text('{"prompts": {"query": ""}, "default_prompt_name": null}')
    return folder


def change(folder: Path, file: str, fields: dict[str, Any]) -> None:
    """Write fields into one of the folder's files; those that are ABSENT are removed."""
    path = folder / file
    content = (json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}) | fields
    kept = {name: value for name, value in content.items() if value is not ABSENT}
    path.write_text(json.dumps(kept), encoding="utf-8")


def auto_tokenizer(folder: Path) -> Any:  # noqa: ANN401
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)  # type: ignore[no-untyped-call]


def written(folder: Path) -> Path:
    target = folder.with_name(f"{folder.name}-as-bert")
    write_verified(locate(str(folder), folder, folder), target, adopt=True, max_tokens=128)
    return target


def require_same(folder: Path, texts: list[str] = TEXTS) -> None:
    """Vectors equal those of `encode()`."""
    target = written(folder)
    theirs = torch.from_numpy(SentenceTransformer(str(folder), device="cpu", local_files_only=True).encode(texts))
    with torch.inference_mode():
        ours = TextEncoder(load_bert(target), 1).eval().pool(*pad(load_tokenizer(target, 128).encode(texts)))
    assert functional.cosine_similarity(ours, theirs).min() > 0.99999
